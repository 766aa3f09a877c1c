"""A device whose memory is full: the field is named, and the run is aborted at once."""

import pytest
import torch
from support.training_runs import CPU

from service.distillation.task import DistillationTask
from service.run.control import read_abort_reason
from service.spec.errors import EXIT_BAD_INPUT
from service.spec.loading import parse_spec
from service.training import student_trial
from service.training.distributed import World
from service.training.memory import DeviceMemoryError, is_out_of_memory
from service.training.trainer import Trainer, train

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has ...")


def raise_full(*_, **__):
    raise FULL


@pytest.mark.parametrize(
    ("owner", "method", "field", "words"),
    [
        (DistillationTask, "outputs", "training.micro_batch_size", "64 images of 16 x 16"),
        (DistillationTask, "outputs", "training.max_activation_bytes", "images of 16 x 16"),
        (DistillationTask, "autocast", "evaluation.batch_size", "32 images of 16 x 16"),
        (student_trial, "median_times_s", "training.micro_batch_size", "64 images of 16 x 16"),
        (Trainer, "__init__", "student.model", "cifar:tiny_cnn do not fit before"),
    ],
)
def test_field_is_named_and_the_run_aborted(
    make_content, monkeypatch, teacher, owner, method, field, words
):
    micro_batch_size = 64 if field.startswith("training.micro") else 16
    training = {"global_batch_size": 64, "micro_batch_size": micro_batch_size, "precision": "auto"}
    content = make_content(resources={"num_workers": 1}, training=training)
    if field.startswith("evaluation"):
        # The teacher is evaluated before the first step.
        content["teacher"] = teacher
    spec = parse_spec(content)
    spec.run_path.mkdir(parents=True)
    monkeypatch.setattr(owner, method, raise_full)

    with pytest.raises(DeviceMemoryError):
        train(spec, World(0, 1, CPU, 1))

    reason = read_abort_reason(spec.run_path)
    assert reason.exit_status == EXIT_BAD_INPUT
    assert reason.text.startswith(f"run failed: {field}: ")
    assert words in reason.text
    assert "\n" not in reason.text


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (FULL, True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_all_ways_of_a_full_device_are_recognized(error, is_full):
    assert is_out_of_memory(error) == is_full
