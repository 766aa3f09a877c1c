"""Requests a resize of a run that has fewer workers than it may have, once more of them fit."""

import contextlib
import time

from ray.util.placement_group import PlacementGroup, remove_placement_group

from service.cluster.waiting import (
    recorded_placement,
    reserve,
    resources_per_worker,
    workers_per_node,
)
from service.run.control import request_resize
from service.run.polling import PollingThread
from service.spec.job import JobSpec


class GrowthWatcher:
    """Watches while ``num_workers`` train; they save and stop, and start again in a larger number.

    A placement group for all that are missing tells an autoscaler about them; it is released as
    soon as there is room for one.
    """

    def __init__(self, spec: JobSpec, num_workers: int):
        self._spec = spec
        self._checked_s = 0.0
        self._demand: PlacementGroup | None = None
        self._thread: PollingThread | None = None
        self._num_missing = spec.resources.max_workers - num_workers
        if self._num_missing > 0:
            interval_s = min(1.0, spec.resources.resize_interval_s)
            self._thread = PollingThread("growth", interval_s, self._poll)

    def close(self) -> None:
        """End the thread, and what it waits for."""
        if self._thread is not None:
            self._thread.close()
        if self._demand is not None:
            remove_placement_group(self._demand)

    @property
    def _per_worker(self) -> dict[str, float]:
        return resources_per_worker(self._spec.resources)

    def _poll(self) -> None:
        # Of many kinds, while the cluster's control service does not answer, or the storage.
        with contextlib.suppress(Exception):
            self._request_if_more_fit()

    def _request_if_more_fit(self) -> None:
        if self._demand is None:
            # Until the workers hold their resources, these still count as free.
            if recorded_placement(self._spec.run_path) is not None:
                self._demand = reserve(self._spec.run_path, self._per_worker, self._num_missing)
                self._checked_s = time.monotonic()
            return
        if time.monotonic() - self._checked_s < self._spec.resources.resize_interval_s:
            return
        self._checked_s = time.monotonic()
        if self._demand.wait(0) or any(workers_per_node(self._per_worker).values()):
            remove_placement_group(self._demand)
            request_resize(self._spec.run_path)
