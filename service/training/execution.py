"""What "auto" means for a run: decided by rank 0, once, before the first step, for all ranks."""

import contextlib
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from data_pipeline.files import retry_io
from data_pipeline.order import num_steps_per_epoch
from service.run.claim import has_started
from service.run.execution import (
    Execution,
    StudentForm,
    TeacherForm,
    read_execution,
    shared_decision,
    write_execution,
)
from service.run.folder import read_tags
from service.spec.job import JobSpec
from service.spec.networks import STUDENT
from service.teacher_cache.key import teacher_settings, weights_digests
from service.training.checkpoint_saver import CheckpointError
from service.training.compiling import forget_compiled
from service.training.data import WorkerData
from service.training.distributed import World, gather_from_all, release_freed_memory
from service.training.student_trial import decide_student
from service.training.teacher_trial import decide_teacher

# Compiling both networks may take minutes, while the other ranks wait.
DECISION_TIMEOUT_S = 3600.0
OF_RUN_ALONE = {
    "networks",
    "has_strong_view",
    "micro_batch_size",
    "num_steps",
    "batch",
    "checkpoint_activations",
    "precision",
}
"""What the teacher's fastest form may depend on, but its stored logits do not. The precision is the
student's, and auto may find another one for another student."""


def decide_execution(
    spec: JobSpec, world: World, data: WorkerData, log: Callable[[str], None]
) -> Execution:
    """How the run computes, the same on all ranks, which call it together.

    A run that is resumed goes on as it began. Another one does what an earlier run of the same
    storage path has decided about the same networks, or times the alternatives.

    Raises:
        BadInputError: a model or weights that cannot be used, or the file in the run's folder.
        CheckpointError: the storage fails.
    """
    forget_compiled()
    found = Execution.plain(spec)
    if world.rank == 0:
        try:
            found = _on_first_rank(spec, world, data, log)
            _release_memory(world.device)
        except OSError as error:
            raise CheckpointError(
                f"{spec.run_path} cannot be read or written ({error.strerror}); fix the storage, "
                "then submit the same spec again"
            ) from error
    timeout_s = DECISION_TIMEOUT_S + spec.resources.collective_timeout_s
    return gather_from_all(found, world, timeout_s)[0]


def _on_first_rank(
    spec: JobSpec, world: World, data: WorkerData, log: Callable[[str], None]
) -> Execution:
    # Before its first step, the run's spec may still change.
    if has_started(spec.run_path):
        earlier = retry_io(lambda: read_execution(spec.run_path))
        if earlier is not None:
            return earlier
    num_steps = spec.schedule.num_epochs * num_steps_per_epoch(
        data.num_train_images,
        spec.training.global_batch_size,
        drop_last=spec.training.drop_last,
    )
    identity = _student_identity(spec, world, num_steps)
    storage_path = spec.checkpoints.storage_path
    student, is_earlier = shared_decision(
        storage_path, identity, StudentForm, lambda: decide_student(spec, world, num_steps, log)
    )
    teacher = TeacherForm()
    if spec.uses_teacher:
        identity |= _teacher_identity(spec, student)
        teacher, is_teacher_earlier = _shared_teacher(
            spec,
            identity,
            lambda: decide_teacher(spec, world, data, student.precision, num_steps, log),
        )
        is_earlier &= is_teacher_earlier
    execution = Execution.of(student, teacher, spec)
    retry_io(lambda: write_execution(spec.run_path, execution))
    if is_earlier:
        log(f"{_text(spec, execution)}, as an earlier run of {storage_path} has found out")
    return execution


def _shared_teacher(
    spec: JobSpec, identity: dict[str, Any], decide: Callable[[], TeacherForm]
) -> tuple[TeacherForm, bool]:
    """The teacher's form, and whether an earlier run has decided about it."""
    decide, storage_path = cache(decide), spec.checkpoints.storage_path
    if spec.teacher_cache is not None:
        # The form, with its precision, is part of the cache's key: runs that share logits, from
        # wherever, must not decide by times of their own. What the first run finds is good enough
        # for all of them.
        identity = {name: identity[name] for name in identity.keys() - OF_RUN_ALONE}
        # A cache that cannot be written ends no run.
        with contextlib.suppress(OSError):
            return shared_decision(spec.teacher_cache_path, identity, TeacherForm, decide)
    return shared_decision(storage_path, identity, TeacherForm, decide)


def _release_memory(device: torch.device) -> None:
    """Return what the timed copies have used: the run's peak memory is its own."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    release_freed_memory()


def _text(spec: JobSpec, execution: Execution) -> str:
    student = "compiled" if execution.compile_student else "eager"
    text = f"the student is {student}, in {execution.precision}"
    if not spec.uses_teacher:
        return text
    own = execution.teacher_precision
    return f"{text}, the teacher {execution.teacher_form}" + (
        f", in {own}" if own != execution.precision else ""
    )


def _student_identity(spec: JobSpec, world: World, num_steps: int) -> dict[str, Any]:
    """All that the times of the student's steps, and what they are worth, depend on.

    Neither the losses nor the teacher: a student that learns from labels alone is computed like
    those that it is compared with.
    """
    training = spec.training
    return {
        "networks": {STUDENT: spec.student.model_dump(mode="json", exclude={"weights"})},
        "num_classes": spec.dataset.num_classes,
        "size": spec.augmentation.largest_size,
        "has_strong_view": spec.augmentation.strong is not None,
        "micro_batch_size": spec.micro_batch_size,
        "num_steps": num_steps,
        "spec": [training.precision, training.compile, training.matmul_precision],
        "deterministic": training.deterministic,
        "checkpoint_activations": training.checkpoint_activations,
        "machine": _machine(world),
    }


def _teacher_identity(spec: JobSpec, student: StudentForm) -> dict[str, Any]:
    """What the decision about the teacher depends on beside that: its weights, and val's images."""
    assert spec.teacher is not None
    return {
        "teacher": teacher_settings(spec.teacher),
        "weights": weights_digests(spec),
        "val": read_tags(spec.run_path).get("dataset_val_fingerprint"),
        "normalization": spec.dataset.normalization.model_dump(mode="json"),
        "sizes": [spec.evaluation.resize_size, spec.evaluation.crop_size],
        "batch": [spec.training.global_batch_size, spec.resources.max_workers],
        "precision": student.precision,
    }


def _machine(world: World) -> dict[str, Any]:
    if world.device.type == "cuda":
        name = torch.cuda.get_device_name(world.device)
    else:
        name = f"{_cpu_name()} {torch.backends.cpu.get_cpu_capability()}"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
