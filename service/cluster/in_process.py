"""Ray Train's controller as a part of this process, which starts nothing but the workers.

For every group of workers Ray starts two actors more: one where workers meet when they report,
one that watches for nodes to be drained. Each costs seconds of a core, which a short trial on a
small node trains for; here none reports to Ray, and a thread can watch.
"""

import asyncio
import os
from typing import Any

import ray.train
from ray.train.v2._internal.callbacks.placement_group_callback import (
    PlacementGroupCleanerCallback,
)
from ray.train.v2._internal.constants import (
    ENABLE_PREEMPTION_WATCHER_ENV_VAR,
    PREEMPTION_POLL_INTERVAL_S_ENV_VAR,
)
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.preemption import PreemptionWatcher
from ray.train.v2._internal.execution.worker_group import WorkerGroup, WorkerGroupContext
from ray.train.v2._internal.execution.worker_group import state as group_state
from ray.train.v2._internal.execution.worker_group import worker_group as group

from service.cluster.kept_workers import KeepingWorkerGroup


class KeepingController(TrainController):  # type: ignore[misc]
    """Ray's controller, with workers that stay for the next run."""

    worker_group_cls = KeepingWorkerGroup


def run_controller(parts: dict[str, Any]) -> ray.train.Result:
    """Train with Ray's controller in this process, which must have no other training of Ray's.

    ``parts``: what Ray makes its controller from.
    """
    group.SynchronizationActor = NoMeetingPlace
    group_state._shutdown_sync_actor = lambda _: None
    os.environ[ENABLE_PREEMPTION_WATCHER_ENV_VAR] = "0"
    # What a controller in this process holds is let go of with it; none must clean up after it.
    kept = [c for c in parts["callbacks"] if not isinstance(c, PlacementGroupCleanerCallback)]
    watch = DrainWatch()
    parts["callbacks"] = [*kept, watch]
    controller = KeepingController(**parts)
    try:
        asyncio.run(controller.run())
    finally:
        watch.stop()
    return controller.get_result()


class NoMeetingPlace:
    """Stands where Ray wants the actor in which reporting workers meet."""

    @classmethod
    def options(cls, **_: Any) -> type["NoMeetingPlace"]:  # noqa: ANN401 - Ray's interface
        """Ray says where the actor is to be."""
        return cls

    @classmethod
    def remote(cls, **_: Any) -> "NoMeetingPlace":  # noqa: ANN401 - Ray's interface
        """Ray starts the actor."""
        return cls()


class DrainWatch(WorkerGroupCallback):  # type: ignore[misc]
    """Tells workers that a node of theirs is to be drained, from a thread of this process."""

    def __init__(self) -> None:
        self._watcher: PreemptionWatcher | None = None

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """Ray calls this when the workers have been placed."""
        self.stop()
        workers = {w.distributed_context.world_rank: w for w in worker_group.get_workers()}
        ranks: dict[str, list[int]] = {}
        for rank, worker in workers.items():
            ranks.setdefault(worker.metadata.node_id, []).append(rank)
        self._watcher = PreemptionWatcher(
            ranks,
            float(os.environ[PREEMPTION_POLL_INTERVAL_S_ENV_VAR]),
            {rank: worker.actor for rank, worker in workers.items()},
        )

    def before_worker_group_shutdown(self, worker_group: WorkerGroup) -> None:  # noqa: ARG002 - Ray's interface
        """Ray calls this when the workers are to end."""
        self.stop()

    def after_worker_group_abort(self, worker_group_context: WorkerGroupContext) -> None:  # noqa: ARG002 - Ray's interface
        """Ray calls this when the workers were ended at once."""
        self.stop()

    def stop(self) -> None:
        """Look no more."""
        if self._watcher is not None:
            self._watcher._stop_event.set()
            self._watcher = None
