"""Trains a run with Ray Train, attempt after attempt: each with as many workers as fit then.

Ray Train starts the workers, watches them, and ends them together when one fails. Whether a run is
tried again, and with how many workers, is decided here: Ray would retry failures that would only
repeat, take workers that stop on purpose for failed ones, and ignore what other jobs use.
"""

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError

from service.cluster.growth import GrowthWatcher
from service.cluster.process_group import ProcessGroupConfig
from service.cluster.ray_internals import make_trainer
from service.cluster.retries import Retries
from service.cluster.waiting import release_room, resources_per_worker, wait_for_room
from service.cluster.worker_process import train_on_worker
from service.run.waiting import clear_waiting
from service.spec.job import JobSpec
from service.spec.sections import Resources

# How soon Ray notices that a worker has ended, well or not.
HEALTH_CHECK_INTERVAL_S = 0.5
# Resources were free just before. If others took them, the run waits again after this time.
PLACEMENT_TIMEOUT_S = 20
NCCL_TIMEOUT_FACTOR = 2


WorkerFunction = Callable[[dict[str, Any]], None]


def run_training(spec: JobSpec, work: WorkerFunction = train_on_worker) -> None:
    """Train ``spec`` on the cluster and return when the last worker has finished.

    ``work``: what every worker calls, with the spec as JSON.

    Raises:
        ray.train.TrainingFailedError: the spec's failure budget is spent, or the run was aborted
            or stopped.
        ray.exceptions.RayActorError: the same, where the process that watches the workers died.
        GracefulStop: a stop was requested while no workers were running.
    """
    _set_environment(spec.resources)
    clear_waiting(spec.run_path)
    retries = Retries(spec)
    try:
        while not _attempt(spec, retries, work):
            pass
    finally:
        clear_waiting(spec.run_path)
        release_room(spec.run_path)


def _attempt(spec: JobSpec, retries: Retries, work: WorkerFunction) -> bool:
    """Train from the last checkpoint on; returns whether to the end, False to try again."""
    num_workers = wait_for_room(spec.run_path, spec.resources)
    try:
        # The watcher ends before its request is cleared. Not on the main thread, where Ray handles
        # SIGINT by aborting the run.
        with (
            contextlib.closing(GrowthWatcher(spec, num_workers)),
            ThreadPoolExecutor(1, thread_name_prefix="train") as pool,
        ):
            pool.submit(_trainer(spec, num_workers, work).fit).result()
    except (TrainingFailedError, RayActorError) as error:
        if not retries.may_retry(error):
            raise
        return False
    return True


def _trainer(spec: JobSpec, num_workers: int, work: WorkerFunction) -> Any:  # noqa: ANN401 - Ray's trainer
    resources = spec.resources
    return make_trainer(
        work,
        train_loop_config={"spec": spec.model_dump_json()},
        backend_config=ProcessGroupConfig(
            "nccl" if resources.gpu else "gloo", process_group_timeout_s(resources)
        ),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=resources.gpu,
            resources_per_worker=resources_per_worker(resources),
        ),
        run_config=RunConfig(
            name=spec.name,
            storage_path=str(spec.checkpoints.storage_path),
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
        ),
    )


def process_group_timeout_s(resources: Resources) -> int:
    """Seconds after which a collective operation of gradients fails.

    Workers wait for each other between CPUs before they wait for their GPUs, and there find one
    that hangs. NCCL's watchdog must not be sooner: it aborts the healthy processes.
    """
    timeout_s = resources.collective_timeout_s
    return NCCL_TIMEOUT_FACTOR * timeout_s if resources.gpu else timeout_s


def _set_environment(resources: Resources) -> None:
    """Settings that Ray reads from the environment, and passes to its controller and workers."""
    os.environ |= {
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(resources.heartbeat_timeout_s),
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": str(resources.collective_timeout_s),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(HEALTH_CHECK_INTERVAL_S),
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(PLACEMENT_TIMEOUT_S),
        # Each worker watches its own node.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    }
