"""How many trials fit on a cluster at a time."""

from collections.abc import Mapping

import ray

from service.spec.errors import BadInputError, Problem
from service.spec.sections import Resources

# Memory of a process that has imported Ray, torch and this service.
TRIAL_DRIVER_BYTES = 500_000_000


def plan_concurrency(resources: Resources, wanted: int | None) -> int:
    """Trials at a time: as many as fit entirely, so that none waits for some of its workers.

    ``wanted``: the number in the spec; None for as many as fit.

    Raises:
        BadInputError: not one trial fits, or fewer than wanted.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_fitting = trials_that_fit(resources, nodes)
    if num_fitting == 0:
        each = f"{resources.cpus_per_worker} CPUs" + (" and a GPU" if resources.gpu else "")
        problem = Problem(
            "resources",
            f"a trial has {resources.min_workers} workers of {each}, which do not fit on the "
            "cluster",
            "ask for less, or add nodes",
        )
        raise BadInputError("sweep", [problem])
    num_drivers = max_trial_drivers(nodes)
    if num_drivers < (wanted or 1):
        problem = Problem(
            "concurrency",
            f"each trial has a driver process of {TRIAL_DRIVER_BYTES / 1e6:.0f} MB, and the "
            f"cluster's nodes have memory for {num_drivers}",
            "ask for fewer, or start ray with more --memory",
        )
        raise BadInputError("sweep", [problem])
    if wanted is not None and wanted > num_fitting:
        problem = Problem(
            "concurrency",
            f"is {wanted}, but {num_fitting} trials fit on the cluster",
            "ask for fewer, give each fewer resources, or add nodes",
        )
        raise BadInputError("sweep", [problem])
    return wanted or min(num_fitting, num_drivers)


def max_trial_drivers(nodes: list[Mapping[str, float]]) -> int:
    """Trial drivers that fit into the memory of the nodes, each on one node."""
    return sum(int(node.get("memory", 0.0) // TRIAL_DRIVER_BYTES) for node in nodes)


def trials_that_fit(resources: Resources, nodes: list[Mapping[str, float]]) -> int:
    """Trials that run at the same time on nodes with these resources.

    A worker is on one node, the workers of a trial may be on several. Of a range of workers, the
    largest number counts, unless no such trial fits.
    """
    needed = {"CPU": float(resources.cpus_per_worker)} | ({"GPU": 1.0} if resources.gpu else {})
    num_workers = sum(
        min(int(node.get(kind, 0.0) // count) for kind, count in needed.items()) for node in nodes
    )
    if num_workers < resources.min_workers:
        return 0
    return max(1, num_workers // resources.max_workers)
