"""Waiting for room on the cluster, for as long as it takes: it is no failure.

Ray takes it for one after a minute, and does not say what is missing.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup

from service.cluster.ray_internals import (
    DefaultPlacementGroupHandle,
    PlacementGroupHandle,
    WorkerGroup,
    free_resources_per_node,
)
from service.run.control import is_aborted, pending_request
from service.run.waiting import clear_waiting, report_waiting

logger = logging.getLogger(__name__)

POLL_S = 1.0
# Kinds of resources that are named.
KINDS = ("CPU", "GPU")


class WaitingWorkerGroup(WorkerGroup):  # type: ignore[misc]
    """Ray's worker group, which reports what it waits for and stops when that is requested."""

    @property
    def _run_path(self) -> Path:
        run_config = self._train_run_context.run_config
        return Path(run_config.storage_path) / str(run_config.name)

    def _create_placement_group(self, *arguments: Any) -> PlacementGroupHandle:  # noqa: ANN401 - Ray's
        handle = super()._create_placement_group(*arguments)
        context = self._worker_group_context
        return PatientPlacement(
            handle.placement_group,
            self._run_path,
            context.num_workers,
            context.resources_per_worker,
        )


class PatientPlacement(DefaultPlacementGroupHandle):  # type: ignore[misc]
    """The placement group of a run's workers, and what they wait for until they have it."""

    def __init__(
        self,
        placement_group: PlacementGroup,
        run_path: Path,
        num_workers: int,
        per_worker: Mapping[str, float],
    ):
        super().__init__(placement_group)
        self._run_path, self._num_workers, self._per_worker = run_path, num_workers, per_worker

    def wait(self, timeout_seconds: float = 30.0) -> bool:
        """Whether the resources are reserved; False after the timeout, or if the run must stop."""
        deadline_s = time.monotonic() + timeout_seconds
        while True:
            if must_end(self._run_path):
                return False
            start_s = time.monotonic()
            if super().wait(POLL_S):
                clear_waiting(self._run_path)
                return True
            if time.monotonic() >= deadline_s:
                return False
            report_need(self._run_path, self._num_workers, self._per_worker)
            # Where the cluster's control service does not answer, the wait above ends at once.
            time.sleep(max(0.0, start_s + POLL_S - time.monotonic()))


def must_end(run_path: Path) -> bool:
    """Whether a run is not to be started any more: a stop was requested, or it was aborted."""
    try:
        return pending_request(run_path) == "stop" or is_aborted(run_path)
    except OSError:
        return False


def report_need(run_path: Path, num_workers: int, per_worker: Mapping[str, float]) -> None:
    """Report what the workers wait for, as far as the cluster says what is free."""
    try:
        total = ray.cluster_resources()
        free = list(free_resources_per_node().values())
    except Exception as error:
        # Ray raises errors of many kinds while its control service restarts.
        logger.warning("the cluster does not report its resources now: %s", error)
        report_waiting(run_path, "waiting for the cluster, which does not answer")
        return
    report_waiting(run_path, need_text(num_workers, per_worker, free, total))


def need_text(
    num_workers: int,
    per_worker: Mapping[str, float],
    free: list[dict[str, float]],
    total: Mapping[str, float],
) -> str:
    """Such as "waiting for 2 CPUs, 0 of 2 free".

    ``free``: resources that are free on each node. ``total``: those of the cluster.
    """
    needed = {kind: num_workers * per_worker[kind] for kind in KINDS if per_worker.get(kind)}
    available = {kind: sum(node.get(kind, 0.0) for node in free) for kind in needed}
    short = [kind for kind in needed if available[kind] < needed[kind]]
    # With enough of each in sum, the nodes' shares of it are too small.
    parts = [
        f"{_count(needed[kind], kind)}, {available[kind]:g} of {total.get(kind, 0.0):g} free"
        for kind in short or needed
    ]
    text = f"waiting for {' and '.join(parts)}"
    if short:
        return text
    each = " and ".join(_count(per_worker[kind], kind) for kind in needed)
    return f"{text}, but not {each} on a node for each worker"


def _count(number: float, kind: str) -> str:
    return f"{number:g} {kind}" if number == 1 else f"{number:g} {kind}s"
