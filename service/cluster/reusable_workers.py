"""Worker processes that are reused by the next run of the process that controls them.

A process that has imported torch trains at once; starting one takes longer than many a trial
trains for.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import ray
from ray.train import ScalingConfig
from ray.util.placement_group import PlacementGroup

from service.cluster.placement import clear_placement, record_placement
from service.cluster.ray_internals import (
    PlacementGroupHandle,
    Worker,
    WorkerGroupContext,
    WorkerGroupState,
)
from service.cluster.waiting import WaitingWorkerGroup
from service.run.control import GracefulStop, pending_request

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 5.0


class IdleWorkers(NamedTuple):
    """Workers without a run; ``run_path``: their last run, which records the placement."""

    workers: list[Worker]
    resources: Mapping[str, float]
    handle: PlacementGroupHandle
    run_path: Path

    def are_alive(self) -> bool:
        """Whether all of them answer."""
        try:
            answers = [worker.actor.get_metadata.remote() for worker in self.workers]
            ray.get(answers, timeout=ANSWER_TIMEOUT_S)
        except ray.exceptions.RayError:
            return False
        return True

    def shutdown(self) -> None:
        """Kill them and release their resources."""
        for worker in self.workers:
            ray.kill(worker.actor)
        self.handle.shutdown()
        clear_placement(self.run_path)


class _ReusedState(WorkerGroupState):  # type: ignore[misc]
    """A worker group's state whose workers and placement group survive its shutdown."""

    def shutdown(self) -> None:
        """Keep the workers and their resources."""


class ReusableWorkerGroup(WaitingWorkerGroup):
    """Starts with idle workers if they fit, and leaves its own idle at the end.

    The placement group of a run's workers is recorded in its folder before they have it.
    """

    idle: ClassVar[IdleWorkers | None] = None
    """The idle workers of this process, which controls one run at a time."""
    _reused: IdleWorkers | None = None

    @classmethod
    def shutdown_idle(cls) -> None:
        """Kill the idle workers and release their resources."""
        idle, cls.idle = cls.idle, None
        if idle is not None:
            idle.shutdown()

    def _start(self) -> None:
        try:
            super()._start()
        except Exception:
            # Ray releases the resources only where no worker had started yet.
            self._end_workers(self.get_worker_group_state() if self.has_started() else None)
            raise

    def _end_workers(self, state: WorkerGroupState | None) -> None:
        if state is not None:
            WorkerGroupState.shutdown(state)
        self._clear_state()
        clear_placement(self._run_path)

    def _create_placement_group(
        self, scaling_config: ScalingConfig, worker_group_context: WorkerGroupContext
    ) -> PlacementGroupHandle:
        idle = ReusableWorkerGroup.idle
        if idle is not None and not _fits(idle, worker_group_context):
            self.shutdown_idle()
            idle = None
        if idle is None:
            handle = super()._create_placement_group(scaling_config, worker_group_context)
            record_placement(self._run_path, handle.placement_group)
            return handle
        record_placement(self._run_path, idle.handle.placement_group)
        if idle.run_path != self._run_path:
            clear_placement(idle.run_path)
        self._reused, ReusableWorkerGroup.idle = idle, None
        return idle.handle

    def _create_workers(
        self,
        num_workers: int,
        placement_group: PlacementGroup,
        resources_per_worker: dict[str, float],
        **options: Any,  # noqa: ANN401 - Ray's interface
    ) -> list[Worker]:
        if self._reused is None:
            created: list[Worker] = super()._create_workers(
                num_workers, placement_group, resources_per_worker, **options
            )
            return created
        workers = [
            Worker(
                worker.actor,
                worker.metadata,
                worker.resources,
                placement_group_bundle_index=worker.placement_group_bundle_index,
            )
            for worker in self._reused.workers
        ]
        ranked: list[Worker] = self._assign_worker_ranks(workers)
        return ranked

    def shutdown(self) -> None:
        """End the run; its workers become idle if all of them are in a known good state."""
        state = self.get_worker_group_state()
        is_reusable = self._is_reusable()
        if is_reusable:
            self._worker_group_state = _ReusedState(
                state.start_time, state.placement_group_handle, state.workers, state.sync_actor
            )
        try:
            super().shutdown()
        except Exception as error:
            # Ray calls the workers before it ends them, and they may be dead in ways that it does
            # not expect.
            logger.warning("worker shutdown failed: %s", error)
            self._end_workers(state)
            return
        if not is_reusable:
            clear_placement(self._run_path)
            return
        ReusableWorkerGroup.idle = IdleWorkers(
            state.workers,
            self._worker_group_context.resources_per_worker,
            state.placement_group_handle,
            self._run_path,
        )

    def _is_reusable(self) -> bool:
        """Whether all workers finished their run, or stopped because a stop was requested."""
        status = self._latest_poll_status
        is_elastic = self._train_run_context.scaling_config.elasticity_enabled
        if status is None or is_elastic:
            # Other elastic runs count free resources, and these would not be free.
            return False
        if any(
            one.running or one.preemption_info is not None
            for one in status.worker_statuses.values()
        ):
            return False
        errors = status.errors.values()
        have_stopped = all(isinstance(error, GracefulStop) for error in errors)
        return have_stopped and (not errors or pending_request(self._run_path) == "stop")


def _fits(idle: IdleWorkers, context: WorkerGroupContext) -> bool:
    """Whether idle workers have the number and resources that a run needs, and are alive."""
    is_same = len(idle.workers) == context.num_workers
    is_same &= idle.resources == context.resources_per_worker
    return is_same and idle.are_alive()
