"""Waiting for room on the cluster, for as long as it takes: it is no failure.

A placement group, which is released again before Ray Train makes its own, tells the cluster and its
autoscaler what is needed. Ray keeps both when the process that made them is killed, and then the
run's next process, or the one that runs several, must release them.
"""

import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path

import ray
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    remove_placement_group,
)

from data_pipeline.files import write_atomically
from service.cluster.ray_internals import free_resources_per_node, placement_group_of
from service.run.control import GracefulStop, is_aborted, pending_request
from service.run.state_files import read_text_if_usable
from service.run.waiting import clear_waiting, report_waiting
from service.spec.sections import Resources

logger = logging.getLogger(__name__)

PLACEMENT_NAME = ".placement_group"
POLL_S = 1.0
# A range of workers: resources of workers that just ended are freed one by one.
SETTLE_S = 5.0
MAX_SETTLE_S = 30.0
# Kinds of resources that are named.
KINDS = ("CPU", "GPU")


def resources_per_worker(resources: Resources) -> dict[str, float]:
    """What Ray reserves for each worker."""
    return {"CPU": resources.cpus_per_worker, **({"GPU": 1} if resources.gpu else {})}


def wait_for_room(run_path: Path, resources: Resources) -> int:
    """Wait until a run's workers fit on the cluster; returns how many of them fit.

    Raises:
        GracefulStop: a stop was requested, or the run was aborted.
    """
    per_worker = resources_per_worker(resources)
    release_room(run_path)
    group = reserve(run_path, per_worker, resources.min_workers)
    try:
        while True:
            start_s = time.monotonic()
            if group.wait(POLL_S):
                break
            _check_must_go_on(run_path)
            report_need(run_path, resources.min_workers, per_worker)
            # Where the cluster's control service does not answer, the wait above ends at once.
            time.sleep(max(0.0, start_s + POLL_S - time.monotonic()))
        clear_waiting(run_path)
        _check_must_go_on(run_path)
        return _num_fitting(run_path, resources)
    finally:
        remove_placement_group(group)


def reserve(run_path: Path, per_worker: Mapping[str, float], num_workers: int) -> PlacementGroup:
    """Resources for a run's workers, reserved as soon as they are free."""
    return placement_group([dict(per_worker)] * num_workers, name=_name(run_path))


def release_room(run_path: Path) -> None:
    """Release what the workers of a process that was killed hold, and what it still waits for."""
    if not ray.is_initialized():
        return
    # There may be no such group.
    with contextlib.suppress(ValueError):
        remove_placement_group(get_placement_group(_name(run_path)))
    if (group := recorded_placement(run_path)) is not None:
        remove_placement_group(group)
        with contextlib.suppress(OSError):
            (run_path / PLACEMENT_NAME).unlink()


def recorded_placement(run_path: Path) -> PlacementGroup | None:
    """The placement group of a run's workers; None if none is recorded, or nothing usable."""
    with contextlib.suppress(OSError, ValueError):
        return placement_group_of(read_text_if_usable(run_path / PLACEMENT_NAME) or "")
    return None


def record_placement(run_path: Path) -> None:
    """In a worker: record the placement group of this run's workers, which Ray Train has made."""
    group = get_current_placement_group()
    if group is not None:
        with contextlib.suppress(OSError):
            write_atomically(run_path / PLACEMENT_NAME, group.id.hex())


def _name(run_path: Path) -> str:
    return f"room for {run_path}"


def _num_fitting(run_path: Path, resources: Resources) -> int:
    """The number of workers that fit, while the minimum is reserved."""
    low, high = resources.min_workers, resources.max_workers
    start_s = since_s = time.monotonic()
    fitting = low
    while fitting < high:
        more = sum(workers_per_node(resources_per_worker(resources)).values())
        now_s = time.monotonic()
        if fitting != min(low + more, high):
            fitting, since_s = min(low + more, high), now_s
        elif now_s - since_s >= SETTLE_S or now_s - start_s >= MAX_SETTLE_S:
            break
        _check_must_go_on(run_path)
        time.sleep(POLL_S / 2)
    return fitting


def workers_per_node(per_worker: Mapping[str, float]) -> dict[str, int]:
    """Workers that fit into what each node has free, without nodes that are being drained."""
    try:
        resources = free_resources_per_node()
    except Exception as error:
        # Ray raises errors of many kinds while its control service restarts.
        logger.warning("the cluster does not report its resources now: %s", error)
        return {}
    return {node: workers_that_fit(per_worker, free) for node, free in resources.items()}


def workers_that_fit(per_worker: Mapping[str, float], available: Mapping[str, float]) -> int:
    """The number of workers that fit into these resources of one node."""
    return min(int(available.get(kind, 0.0) // count) for kind, count in per_worker.items())


def _check_must_go_on(run_path: Path) -> None:
    """Check that a run is still to be started.

    Raises:
        GracefulStop: a stop was requested, or the run was aborted.
    """
    with contextlib.suppress(OSError):
        if pending_request(run_path) == "stop" or is_aborted(run_path):
            raise GracefulStop("a stop was requested before workers started")


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
