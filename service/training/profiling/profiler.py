"""Profiles some steps of a run as they are, on every worker; nothing of the run is kept."""

import gzip
import json
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from data_pipeline.batches import Batch
from data_pipeline.files import write_atomically
from service.models.build import build_on_meta_device
from service.models.flops import flops_per_image
from service.run.execution import Execution, read_execution
from service.run.state_files import read_state
from service.spec.job import JobSpec
from service.spec.networks import STUDENT, teacher_networks
from service.training.distributed import World
from service.training.failure_reports import reported_failures
from service.training.memory import model_text, training_text, with_memory_field
from service.training.precisions import autocast_dtype
from service.training.profiling.peak import matrix_product_peak, synchronize
from service.training.profiling.profile import Profile
from service.training.profiling.trace import WINDOW, time_by_part
from service.training.trainer import Trainer

# Compilers, autotuning and allocators are busy in the first steps.
NUM_WARMUP_STEPS, NUM_TIMED_STEPS, NUM_PROFILED_STEPS = 3, 5, 3
TRACE_NAME, PROFILE_NAME = "trace.json.gz", "profile.json"
# A backward pass costs two forward passes: gradients of the activations and of the weights.
FORWARD_PASSES_PER_STEP = 3


def profile_training(spec: JobSpec, world: World) -> None:
    """Run some steps of the job; rank 0 writes the trace and the profile into the run's folder.

    Raises:
        As ``service.training.trainer.train``.
    """
    with reported_failures(spec):
        with with_memory_field(world, model_text(spec)):
            trainer = Trainer(spec, world, lambda: None)
        with trainer, with_memory_field(world, training_text(spec)):
            measured = StepProfiler(spec, world, trainer).run()
        if world.rank == 0:
            write_atomically(spec.run_path / PROFILE_NAME, json.dumps(measured._asdict()) + "\n")


def read_profile(run_path: Path) -> Profile | None:
    """What ``profile_training`` has written; None if the run was aborted.

    Raises:
        BadInputError: it is damaged.
        OSError: the storage fails.
    """
    return read_state(run_path / PROFILE_NAME, Profile, "profile the job again")


class StepProfiler:
    """Measures the steps of one worker; all workers make the same calls."""

    def __init__(self, spec: JobSpec, world: World, trainer: Trainer):
        self._spec, self._world, self._trainer = spec, world, trainer
        self._execution = read_execution(spec.run_path) or Execution.plain(spec)

    def run(self) -> Profile:
        """Warm up, time and profile steps of the epoch's batches, then time the last one alone."""
        batches = self._batches()
        for batch in islice(batches, NUM_WARMUP_STEPS):
            self._trainer.step(batch)
        step_s = self._timed(lambda: self._trainer.step(next(batches)))
        parts_s = self._profiled(batches)
        batch = next(batches)
        # Ends the decoding, which would take cores.
        batches.close()
        place = self._trainer.progress

        def repeat() -> None:
            self._trainer.progress = replace(place)
            self._trainer.step(batch)

        repeat()
        resident_step_s = self._timed(repeat)
        device = self._world.device
        dtype = autocast_dtype(self._execution.precision) or torch.float32
        return Profile(
            parts_s,
            step_s,
            resident_step_s,
            len(batch.labels),
            self._world.size,
            len(batch.labels) * training_flops_per_image(self._spec),
            matrix_product_peak(device, dtype),
            _device_text(device, dtype),
        )

    def _batches(self) -> Generator[Batch]:
        """Whole batches of one epoch after the other, without end; a last, smaller one if it is
        the only one.
        """
        progress, num_epochs = self._trainer.progress, self._spec.schedule.num_epochs
        while True:
            progress = self._trainer.progress
            num_whole = max(1, self._trainer.num_whole_steps_per_epoch)
            yield from islice(self._trainer.remaining_batches(), num_whole)
            progress.epoch = (progress.epoch + 1) % num_epochs
            progress.step_in_epoch = 0
            progress.step = progress.epoch * num_whole

    def _timed(self, step: Callable[[], object]) -> float:
        """Mean seconds of a step."""
        synchronize(self._world.device)
        start_s = time.perf_counter()
        for _ in range(NUM_TIMED_STEPS):
            step()
        synchronize(self._world.device)
        return (time.perf_counter() - start_s) / NUM_TIMED_STEPS

    def _profiled(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Mean seconds of the parts of a step."""
        device = self._world.device
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities) as profiler:
            # The profiler's own first steps are slow.
            self._trainer.step(next(batches))
            synchronize(device)
            with record_function(WINDOW):
                for _ in range(NUM_PROFILED_STEPS):
                    self._trainer.step(next(batches))
                synchronize(device)
        path = self._spec.run_path / f"{self._world.rank}.{TRACE_NAME}"
        profiler.export_chrome_trace(str(path))
        with gzip.open(path) as file:
            events = json.load(file)["traceEvents"]
        if self._world.rank == 0:
            path.replace(path.with_name(TRACE_NAME))
        else:
            path.unlink()
        return {part: s / NUM_PROFILED_STEPS for part, s in time_by_part(events).items()}


def training_flops_per_image(spec: JobSpec) -> float:
    """FLOPs of the networks for an image of a training step, a multiply-add counted as two.

    Without those of a teacher with a cache, from which its logits may be read.
    """
    student_passes = FORWARD_PASSES_PER_STEP * (1 if spec.augmentation.strong is None else 2)
    total = student_passes * _forward_flops(spec, STUDENT)
    if spec.uses_teacher and spec.teacher_cache is None:
        teachers = teacher_networks(spec.teacher)
        total += spec.num_teacher_views * sum(_forward_flops(spec, path) for path in teachers)
    return total


def _forward_flops(spec: JobSpec, path: str) -> float:
    model = build_on_meta_device(spec.networks()[path].model, spec.num_classes_of(path))
    return flops_per_image(model, spec.input_size(path, spec.augmentation.size))


def _device_text(device: torch.device, dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {name}"
    return f"{torch.get_num_threads()} CPU threads, {name}"
