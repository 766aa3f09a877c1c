"""Ray's training controller without the helper actors that it starts beside the workers.

For every worker group Ray would start two actors: one through which workers synchronize reports,
one that watches for draining nodes. Each costs seconds of a core whenever training starts; workers
here report nothing to Ray, and a thread can watch.
"""

import asyncio
import os
from typing import Any

import ray.train

from service.cluster.ray_internals import (
    PREEMPTION_POLL_INTERVAL_S_ENV_VAR,
    ControllerCallback,
    PlacementGroupCleanerCallback,
    PreemptionWatcher,
    TrainController,
    TrainRunContext,
    WorkerGroup,
    WorkerGroupCallback,
    WorkerGroupContext,
    disable_synchronization_actor,
    stop_preemption_watcher,
    use_worker_group,
)
from service.cluster.reusable_workers import ReusableWorkerGroup
from service.cluster.waiting import WaitingWorkerGroup


class DrainWatcher(ControllerCallback, WorkerGroupCallback):  # type: ignore[misc]
    """Notifies workers, from a thread of the controller, that one of their nodes is drained."""

    def __init__(self) -> None:
        self._watcher: PreemptionWatcher | None = None

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:  # noqa: ARG002 - Ray's interface
        """Ray calls this before it starts workers."""
        disable_synchronization_actor()
        use_worker_group(WaitingWorkerGroup)

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
        """Ray calls this before it ends the workers."""
        self._stop()

    def after_worker_group_abort(self, worker_group_context: WorkerGroupContext) -> None:  # noqa: ARG002 - Ray's interface
        """Ray calls this when the workers were killed."""
        self._stop()

    async def before_controller_shutdown(self) -> None:
        """Ray calls this at the end."""
        self._stop()

    def _stop(self) -> None:
        if self._watcher is not None:
            stop_preemption_watcher(self._watcher)
            self._watcher = None


class InProcessController(TrainController):  # type: ignore[misc]
    """Ray's controller, with workers that are reused by the next run."""

    worker_group_cls = ReusableWorkerGroup


def run_controller(parts: dict[str, Any]) -> ray.train.Result:
    """Train with Ray's controller in this process, which must run no other training of Ray's.

    ``parts``: the arguments that Ray creates its controller with.
    """
    # What a controller in this process holds is released with the process.
    parts["callbacks"] = [
        c for c in parts["callbacks"] if not isinstance(c, PlacementGroupCleanerCallback)
    ]
    controller = InProcessController(**parts)
    asyncio.run(controller.run())
    return controller.get_result()
