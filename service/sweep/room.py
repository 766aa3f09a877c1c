"""How many trials a cluster has room for."""

from collections.abc import Mapping

import ray

from service.problems import BadInputError, Problem
from service.spec_sections import Resources

# What a process with Ray, torch and this service in it takes.
FOLLOWER_BYTES = 500_000_000


def plan_concurrency(resources: Resources, wanted: int | None) -> int:
    """Trials at a time: as many as fit whole, so that none waits for a part of its workers.

    Raises:
        BadInputError: not one fits, or fewer than wanted.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_fitting = trials_that_fit(resources, nodes)
    if num_fitting == 0:
        each = f"{resources.cpus_per_worker} CPUs" + (" and a GPU" if resources.gpu else "")
        problem = Problem(
            "resources",
            f"a trial has {resources.min_workers} workers of {each}, for which the cluster has no "
            "room",
            "ask for less, or add nodes",
        )
        raise BadInputError("sweep", [problem])
    num_followers = followers_that_fit(nodes)
    if num_followers < (wanted or 1):
        problem = Problem(
            "concurrency",
            f"each trial is followed by a process of {FOLLOWER_BYTES / 1e6:.0f} MB, and the "
            f"cluster's nodes have memory for {num_followers}",
            "ask for fewer, or start ray with more --memory",
        )
        raise BadInputError("sweep", [problem])
    if wanted is not None and wanted > num_fitting:
        problem = Problem(
            "concurrency",
            f"is {wanted}, but the cluster has room for {num_fitting} trials",
            "ask for fewer, give each fewer resources, or add nodes",
        )
        raise BadInputError("sweep", [problem])
    return wanted or min(num_fitting, num_followers)


def followers_that_fit(nodes: list[Mapping[str, float]]) -> int:
    """Processes that can follow a trial, each on one node, in the memory that Ray may hand out."""
    return sum(int(node.get("memory", 0.0) // FOLLOWER_BYTES) for node in nodes)


def trials_that_fit(resources: Resources, nodes: list[Mapping[str, float]]) -> int:
    """Trials that run at the same time on nodes with these resources.

    A worker is on one node, the workers of a trial may be on several. Of a range of workers, the
    most count where there is room for one such trial.
    """
    needed = {"CPU": float(resources.cpus_per_worker)} | ({"GPU": 1.0} if resources.gpu else {})
    num_workers = sum(
        min(int(node.get(kind, 0.0) // count) for kind, count in needed.items()) for node in nodes
    )
    if num_workers < resources.min_workers:
        return 0
    return max(1, num_workers // resources.max_workers)
