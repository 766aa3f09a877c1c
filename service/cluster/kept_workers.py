"""Workers that stay when their run is over, for the next one that this process controls.

A process that has imported torch already trains at once; to start one takes longer than many a
trial trains for.
"""

import ctypes
import gc
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import ray
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.worker_group import (
    Worker,
    WorkerGroup,
    WorkerGroupContext,
    WorkerGroupState,
)
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    PlacementGroupHandle,
)
from ray.util.placement_group import PlacementGroup

from service.cluster.placement import forget_placement, record_placement
from service.training.leaving import LeavingError, asked_to_leave

logger = logging.getLogger(__name__)

ANSWER_LIMIT_S = 5.0


class KeptWorkers(NamedTuple):
    """Workers that have no run now; ``run_path``: of their last one, which has the record."""

    workers: list[Worker]
    resources: Mapping[str, float]
    handle: PlacementGroupHandle
    run_path: Path

    def are_alive(self) -> bool:
        """Whether all of them answer."""
        try:
            answers = [worker.actor.get_metadata.remote() for worker in self.workers]
            ray.get(answers, timeout=ANSWER_LIMIT_S)
        except ray.exceptions.RayError:
            return False
        return True

    def dismiss(self) -> None:
        """End them, and let go of what they hold."""
        for worker in self.workers:
            ray.kill(worker.actor)
        self.handle.shutdown()
        forget_placement(self.run_path)


class _StayingState(WorkerGroupState):  # type: ignore[misc]
    """Workers and placement group of a run that is over, but for these."""

    def shutdown(self) -> None:
        """Leave them as they are."""


class KeepingWorkerGroup(WorkerGroup):  # type: ignore[misc]
    """Takes the workers that were kept, if they are what is needed, and keeps its own in the end.

    Beside each run it is written down what its workers hold, from before they do.
    """

    kept: ClassVar[KeptWorkers | None] = None
    """Of this process; it controls one run at a time."""
    _taken: KeptWorkers | None = None

    @classmethod
    def dismiss_kept(cls) -> None:
        """End the workers that wait for a run."""
        kept, cls.kept = cls.kept, None
        if kept is not None:
            kept.dismiss()

    @property
    def _run_path(self) -> Path:
        run_config = self._train_run_context.run_config
        return Path(run_config.storage_path) / str(run_config.name)

    def _start(self) -> None:
        try:
            super()._start()
        except Exception:
            # Ray lets go of what it had only where no worker was there yet.
            self._end_workers(self.get_worker_group_state() if self.has_started() else None)
            raise

    def _end_workers(self, state: WorkerGroupState | None) -> None:
        if state is not None:
            WorkerGroupState.shutdown(state)
        self._clear_state()
        forget_placement(self._run_path)

    def _create_placement_group(
        self, scaling_config: ScalingConfig, worker_group_context: WorkerGroupContext
    ) -> PlacementGroupHandle:
        kept = KeepingWorkerGroup.kept
        if kept is not None and not _is_for(kept, worker_group_context):
            self.dismiss_kept()
            kept = None
        if kept is None:
            handle = super()._create_placement_group(scaling_config, worker_group_context)
            record_placement(self._run_path, handle.placement_group)
            return handle
        record_placement(self._run_path, kept.handle.placement_group)
        if kept.run_path != self._run_path:
            forget_placement(kept.run_path)
        self._taken, KeepingWorkerGroup.kept = kept, None
        return kept.handle

    def _create_workers(
        self,
        num_workers: int,
        placement_group: PlacementGroup,
        resources_per_worker: dict[str, float],
        **options: Any,  # noqa: ANN401 - Ray's interface
    ) -> list[Worker]:
        if self._taken is None:
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
            for worker in self._taken.workers
        ]
        ranked: list[Worker] = self._assign_worker_ranks(workers)
        return ranked

    def shutdown(self) -> None:
        """End the run of the workers, and them unless they can be of use to the next one."""
        state = self.get_worker_group_state()
        keeps = self._are_well()
        if keeps:
            self._worker_group_state = _StayingState(
                state.start_time, state.placement_group_handle, state.workers, state.sync_actor
            )
        try:
            super().shutdown()
        except Exception as error:
            # Ray asks the workers before it ends them, and they may be dead in ways that it does
            # not expect.
            logger.warning("workers did not take their leave: %s", error)
            self._end_workers(state)
            return
        if not keeps:
            forget_placement(self._run_path)
            return
        KeepingWorkerGroup.kept = KeptWorkers(
            state.workers,
            self._worker_group_context.resources_per_worker,
            state.placement_group_handle,
            self._run_path,
        )

    def _are_well(self) -> bool:
        """Whether all workers came to the end of their run, or left it because it was asked for."""
        status = self._latest_poll_status
        is_elastic = self._train_run_context.scaling_config.elasticity_enabled
        if status is None or is_elastic:
            # Other runs with a range of workers count the room without these.
            return False
        if any(
            one.running or one.preemption_info is not None
            for one in status.worker_statuses.values()
        ):
            return False
        errors = status.errors.values()
        have_left = all(isinstance(error, LeavingError) for error in errors)
        return have_left and (not errors or asked_to_leave(self._run_path) == "stop")


def _is_for(kept: KeptWorkers, context: WorkerGroupContext) -> bool:
    """Whether workers that were kept are those that a run wants, and are still there."""
    is_same = len(kept.workers) == context.num_workers
    is_same &= kept.resources == context.resources_per_worker
    return is_same and kept.are_alive()


def forget_last_run() -> None:
    """Make a worker process that has trained before as good as new."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    # An error that ended it holds its models and batches in a circle.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    # The next run may need less than this one, which had its memory kept (see training.memory).
    ctypes.CDLL(None).malloc_trim(0)
