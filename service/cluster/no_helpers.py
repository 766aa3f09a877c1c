"""What Ray's controller starts beside the workers, without an actor for each.

For every group of workers it would start two: one where workers meet when they report, one that
watches for nodes to be drained. Each costs seconds of a core whenever training begins; here none
reports to Ray, and a thread can watch.
"""

import os
from typing import Any

from ray.train.v2._internal.constants import PREEMPTION_POLL_INTERVAL_S_ENV_VAR
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.preemption import PreemptionWatcher
from ray.train.v2._internal.execution.worker_group import WorkerGroup, WorkerGroupContext
from ray.train.v2._internal.execution.worker_group import state as group_state
from ray.train.v2._internal.execution.worker_group import worker_group as group


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


class NoHelpers(ControllerCallback, WorkerGroupCallback):  # type: ignore[misc]
    """Takes the helpers' place, in the process of the controller: it tells workers, from a thread,
    that a node of theirs is to be drained.
    """

    def __init__(self) -> None:
        self._watcher: PreemptionWatcher | None = None

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:  # noqa: ARG002 - Ray's interface
        """Ray calls this before it begins."""
        group.SynchronizationActor = NoMeetingPlace
        group_state._shutdown_sync_actor = lambda _: None

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """Ray calls this when the workers have been placed."""
        self._stop()
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
        self._stop()

    def after_worker_group_abort(self, worker_group_context: WorkerGroupContext) -> None:  # noqa: ARG002 - Ray's interface
        """Ray calls this when the workers were ended at once."""
        self._stop()

    async def before_controller_shutdown(self) -> None:
        """Ray calls this in the end."""
        self._stop()

    def _stop(self) -> None:
        if self._watcher is not None:
            self._watcher._stop_event.set()
            self._watcher = None
