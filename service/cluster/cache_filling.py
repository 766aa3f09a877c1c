"""Fills the teacher's cache on the cluster: a task for each epoch, as many at a time as fit."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import ray
from ray.exceptions import RayTaskError

from service.cluster.worker_process import prepared_world
from service.spec.job import JobSpec

CHECK_INTERVAL_S = 0.5


class EpochTask(NamedTuple):
    """An epoch, counted from 0, of runs with a spec; ``label``: what it is, to be said."""

    spec: JobSpec
    epoch: int
    label: str


class FillingFailedError(RuntimeError):
    """An epoch's logits were not stored; the message says why."""


def fill_epochs(
    tasks: Sequence[EpochTask],
    done: Callable[[EpochTask, int], None],
    check: Callable[[], None],
) -> None:
    """Store the teacher's logits of epochs, each with the resources of one worker.

    A task whose node dies is started again on another one, as often as the resources allow.

    Args:
        tasks: see ``training.cache_filling.fill_epoch``.
        done: called with each of them, and how many images' logits were computed for it.
        check: called all the time; what it raises ends the filling. Ray's native code would turn
            what a signal's handler raises into another error.

    Raises:
        FillingFailedError: a task has failed; the others are canceled.
    """
    pending = {_submit(task): task for task in tasks}
    try:
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=CHECK_INTERVAL_S)
            check()
            for reference in ready:
                done(pending[reference], ray.get(reference))
                del pending[reference]
    except RayTaskError as error:
        raise FillingFailedError(str(error.cause)) from error
    finally:
        for reference in pending:
            ray.cancel(reference)


def _submit(task: EpochTask) -> ray.ObjectRef[int]:
    resources = task.spec.resources
    remote = ray.remote(_fill).options(
        num_cpus=resources.cpus_per_worker,
        num_gpus=1 if resources.gpu else 0,
        max_retries=resources.max_failures,
    )
    return remote.remote(task.spec.model_dump_json(), task.epoch)


def _fill(spec: str, epoch: int) -> int:
    # Imported here: the driver refers to this function without importing the training code.
    import torch

    job = JobSpec.model_validate_json(spec)
    device = torch.device("cuda" if job.resources.gpu else "cpu")
    # As the runs' workers: how products are computed is part of the cache's key.
    world = prepared_world(job, 0, 1, device)
    from service.training.cache_filling import fill_epoch

    return fill_epoch(job, epoch, world)
