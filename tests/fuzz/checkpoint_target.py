"""The metadata of a checkpoint, with intact files and with a damaged one."""

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fuzz.json_mutators import mutate_json
from fuzz.outcomes import Call
from fuzz.small_run import NUM_EPOCHS, train_once
from fuzz.target import Target
from support.training_runs import CPU

from service.distillation.task import Trainee
from service.result import IncompleteRunError, collect_result
from service.run.execution import Execution
from service.run.folder import STUDENT_NAME
from service.run.folder import write_spec as store_spec
from service.spec.job import JobSpec
from service.training.checkpoint import METADATA_NAME, is_intact, newest_checkpoint
from service.training.checkpoint_saver import CheckpointError
from service.training.distributed import World
from service.training.factory import build_task
from service.training.metrics import IntervalMetrics
from service.training.optimizers import build_optimizer
from service.training.state import TrainState


def checkpoint_target(folder: Path) -> Target:
    """A run is resumed from its newest checkpoint, or from none; and its result is collected."""
    spec = train_once(folder).spec
    store_spec(spec)
    original = newest_checkpoint(spec.run_path)
    assert original is not None
    kept_path = original.rename(folder / "checkpoint")
    state = _train_state(spec)
    names = (str(spec.run_path), METADATA_NAME)

    def calls(data: bytes) -> Iterator[Call]:
        for path in spec.run_path.glob("*checkpoint_*"):
            shutil.rmtree(path)
        _place(kept_path, original, data)
        yield Call("is_intact", partial(is_intact, original), (), ())
        yield Call("restore", partial(_restore, state), (CheckpointError,), names)
        yield Call(
            "collect_result",
            partial(collect_result, spec.run_path, NUM_EPOCHS),
            (IncompleteRunError,),
            names,
        )
        shutil.rmtree(original, ignore_errors=True)
        _place(kept_path, original, data)
        _damage(original / STUDENT_NAME)
        yield Call("damaged weights", partial(_check_damaged, original), (), ())

    return Target(folder, [(kept_path / METADATA_NAME).read_bytes()], mutate_json, calls)


def _train_state(spec: JobSpec) -> TrainState:
    """What a worker fills from a checkpoint."""
    world = World(0, 1, CPU, 1)
    trainee = build_task(spec, CPU, Execution.plain(spec)).trainee
    assert isinstance(trainee, Trainee)
    optimizer = build_optimizer(trainee, spec.optimizer)
    metrics = IntervalMetrics(world, trainee.objective.telemetry)
    return TrainState(spec, world, trainee, None, optimizer, metrics, None, None)


def _place(source: Path, path: Path, metadata: bytes) -> None:
    """A copy of a checkpoint with other metadata; its other files are shared."""
    path.mkdir()
    for file in source.iterdir():
        if file.name != METADATA_NAME:
            os.link(file, path / file.name)
    (path / METADATA_NAME).write_bytes(metadata)


def _damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)


def _restore(state: TrainState) -> None:
    progress = state.restore(lambda line: None)
    counts = (progress.step, progress.epoch, progress.step_in_epoch, progress.skipped)
    assert all(type(count) is int and count >= 0 for count in counts), f"progress {counts}"


def _check_damaged(path: Path) -> None:
    assert not is_intact(path), "a damaged checkpoint counts as intact"
