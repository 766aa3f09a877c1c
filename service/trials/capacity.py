"""Computes how many trials fit on a cluster at the same time."""

from collections.abc import Mapping

import ray

from service.cluster.waiting import resources_per_worker, workers_that_fit
from service.spec.errors import BadInputError, Problem
from service.spec.sections import Resources

# Resident memory of a process that has imported Ray, torch and this service.
TRIAL_DRIVER_BYTES = 500_000_000


def plan_concurrency(resources: Resources, requested: int | None) -> int:
    """Number of concurrent trials whose workers all fit, so that no trial waits for workers.

    ``requested``: the number in the spec; None for the largest that fits.

    Raises:
        BadInputError: no trial fits, or fewer than ``requested``.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_fitting = trials_that_fit(resources, nodes)
    if num_fitting == 0:
        each = f"{resources.cpus_per_worker} CPUs" + (" and a GPU" if resources.gpu else "")
        problem = Problem(
            "resources",
            f"a trial has {resources.min_workers} workers of {each}, which do not fit on the "
            "cluster",
            "request less, or add nodes",
        )
        raise BadInputError("sweep", [problem])
    num_drivers = max_trial_drivers(nodes)
    if num_drivers < (requested or 1):
        problem = Problem(
            "concurrency",
            f"each trial has a driver process of {TRIAL_DRIVER_BYTES / 1e6:.0f} MB, and the "
            f"cluster's nodes have memory for {num_drivers}",
            "request fewer trials, or start Ray with more --memory",
        )
        raise BadInputError("sweep", [problem])
    if requested is not None and requested > num_fitting:
        problem = Problem(
            "concurrency",
            f"is {requested}, but {num_fitting} trials fit on the cluster",
            "request fewer trials, give each fewer resources, or add nodes",
        )
        raise BadInputError("sweep", [problem])
    return requested or min(num_fitting, num_drivers)


def trial_resources(resources: Resources) -> dict[str, float]:
    """What Ray reserves for the process of each trial.

    The one worker of a trial is that process. Several workers reserve their own resources, and
    their driver memory only: otherwise drivers that wait for workers could hold the CPUs that the
    workers need.
    """
    worker = resources_per_worker(resources) if resources.max_workers == 1 else {}
    return {"memory": TRIAL_DRIVER_BYTES, **worker}


def max_trial_drivers(nodes: list[Mapping[str, float]]) -> int:
    """Number of trial drivers that fit into the memory of the nodes."""
    return sum(int(node.get("memory", 0.0) // TRIAL_DRIVER_BYTES) for node in nodes)


def trials_that_fit(resources: Resources, nodes: list[Mapping[str, float]]) -> int:
    """Number of trials that can run at the same time on nodes with these Ray resources.

    The workers of a trial may be on several nodes. Elastic trials count with their maximum number
    of workers; 1 is returned if only a trial with fewer workers fits.
    """
    num_workers = sum(workers_that_fit(resources_per_worker(resources), node) for node in nodes)
    if num_workers < resources.min_workers:
        return 0
    return max(1, num_workers // resources.max_workers)
