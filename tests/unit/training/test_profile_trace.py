"""Traces drawn by hand, whose times by part can be counted."""

import pytest

from service.distillation.regions import BACKWARD, DATA, OPTIMIZER, STUDENT, TEACHER
from service.training.profiling.trace import PARTS, WINDOW, time_by_part


def event(name, start_us, end_us, category="user_annotation", **args):
    duration = end_us - start_us
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "ts": start_us,
        "dur": duration,
        "args": args,
    }


def microseconds(events):
    found = time_by_part(events)
    assert tuple(found) == PARTS
    return {part: pytest.approx(1e6 * seconds) for part, seconds in found.items() if seconds}


def test_on_a_cpu_a_moment_belongs_to_the_region_that_the_host_is_in():
    events = [
        event(WINDOW, 1000, 1100),
        # It began before the window.
        event(DATA, 990, 1010),
        event(TEACHER, 1010, 1025),
        event("aten::conv2d", 1011, 1024, "cpu_op"),
        event(STUDENT, 1030, 1050),
        event(OPTIMIZER, 1090, 1095),
        {"ph": "M", "name": "process_name", "args": {}},
    ]
    assert microseconds(events) == {
        "data": 10,
        "teacher": 15,
        "student forward": 20,
        "optimizer": 5,
        "everything else": 50,
    }


def test_on_a_cpu_communication_counts_while_no_operator_runs():
    events = [
        event(WINDOW, 0, 100),
        event(BACKWARD, 10, 60),
        event("aten::mm", 10, 40, "cpu_op"),
        # Two buckets: the first is hidden behind the operators until 40.
        event("gloo:all_reduce", 20, 50),
        event("gloo:all_reduce", 30, 57),
        # The workers' flags, outside of all regions.
        event("gloo:all_reduce", 70, 75),
    ]
    assert microseconds(events) == {"backward": 33, "all-reduce": 22, "everything else": 45}


def test_on_a_gpu_a_moment_belongs_to_the_region_that_launched_the_kernel():
    events = [
        event(WINDOW, 0, 100),
        event(DATA, 0, 5),
        event("cudaMemcpyAsync", 4, 5, "cuda_runtime", correlation=1),
        event(TEACHER, 5, 10),
        event("cudaLaunchKernel", 6, 7, "cuda_runtime", correlation=2),
        event(STUDENT, 10, 15),
        event("cudaLaunchKernel", 11, 12, "cuda_runtime", correlation=3),
        event(BACKWARD, 15, 20),
        # From autograd's thread, and by a driver that a compiler calls.
        event("cuLaunchKernel", 16, 17, "cuda_driver", correlation=4),
        event("cudaLaunchKernel", 17, 18, "cuda_runtime", correlation=5),
        # The optimizer's wait is the host's alone.
        event(OPTIMIZER, 20, 95),
        # The profiler's copies of regions on the GPU's streams.
        event(WINDOW, 5, 80, "gpu_user_annotation"),
        event(TEACHER, 8, 30, "gpu_user_annotation"),
        event("Memcpy HtoD", 5, 8, "gpu_memcpy", correlation=1),
        event("conv", 8, 30, "kernel", correlation=2),
        # The teacher's stream runs beside it from 25 to 30.
        event("conv", 25, 45, "kernel", correlation=3),
        event("gemm", 45, 70, "kernel", correlation=4),
        event("ncclDevKernel_AllReduce", 60, 80, "kernel", correlation=5),
    ]
    assert microseconds(events) == {
        "data": 3 + 5,
        "teacher": 17,
        "student forward": 20,
        "backward": 25,
        "all-reduce": 10,
        "everything else": 20,
    }
