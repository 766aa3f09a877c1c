"""What Slurm has given to a job, from its environment, and whether the workers of a spec fit."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from service.spec.errors import BadInputError, Problem
from service.spec.sections import Resources

CPUS_VARIABLE = "SLURM_JOB_CPUS_PER_NODE"
GPUS_VARIABLE = "SLURM_GPUS_ON_NODE"
NEEDED_VARIABLES = ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURMD_NODENAME", CPUS_VARIABLE)
SUBMIT = "submit deploy/slurm/distill.sbatch with sbatch"


class NodeShare(NamedTuple):
    """What a job has of one node."""

    num_cpus: int
    num_gpus: int

    def num_workers(self, resources: Resources) -> int:
        """Workers that fit."""
        by_cpus = self.num_cpus // resources.cpus_per_worker
        return min(by_cpus, self.num_gpus) if resources.gpu else by_cpus


def check_environment(environment: Mapping[str, str]) -> None:
    """Check that this is the batch step of a Slurm job.

    Raises:
        BadInputError: naming a variable that is missing.
    """
    for name in NEEDED_VARIABLES:
        if not environment.get(name):
            problem = Problem(name, "is not set: this is not the batch step of a Slurm job", SUBMIT)
            raise BadInputError("Slurm", [problem])


def read_allocation(environment: Mapping[str, str]) -> tuple[NodeShare, ...]:
    """The shares of all nodes, in Slurm's order.

    Slurm tells a job how many GPUs its first node has; the others are taken to have as many.

    Raises:
        BadInputError: it is not as Slurm writes it.
    """
    gpus = environment.get(GPUS_VARIABLE) or "0"
    if not gpus.isdecimal():
        problem = Problem(GPUS_VARIABLE, f"is {gpus!r}, which is no number of GPUs", SUBMIT)
        raise BadInputError("Slurm", [problem])
    num_gpus = int(gpus)
    return tuple(NodeShare(count, num_gpus) for count in _counts(environment[CPUS_VARIABLE]))


def _counts(text: str) -> list[int]:
    """Slurm's short form of a list: 4(x2),8 is 4, 4, 8."""
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            problem = Problem(CPUS_VARIABLE, f"is {text!r}, which is no list of CPUs", SUBMIT)
            raise BadInputError("Slurm", [problem])
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def room_problem(nodes: Sequence[NodeShare], resources: Resources) -> Problem | None:
    """What is wrong where fewer workers fit than the spec needs; None if they fit."""
    num_fitting = sum(node.num_workers(resources) for node in nodes)
    if num_fitting >= resources.min_workers:
        return None
    each = f"{resources.cpus_per_worker} CPUs{' and a GPU' if resources.gpu else ''}"
    # As many nodes as there are, if they were all the same.
    per_node = -(-resources.min_workers // len(nodes))
    options = [f"--nodes={len(nodes)}", f"--cpus-per-task={per_node * resources.cpus_per_worker}"]
    if resources.gpu:
        options.append(f"--gpus-per-node={per_node}")
    return Problem(
        "resources.num_workers",
        f"{resources.min_workers} workers with {each} each are needed, and {num_fitting} fit on "
        f"what Slurm has allocated: {_text(nodes)}",
        f"sbatch {' '.join(options)}, or request less in resources",
    )


def _text(nodes: Sequence[NodeShare]) -> str:
    """Such as 4 CPUs and 0 GPUs on one node, 2 CPUs and 0 GPUs on another."""
    shares = [f"{node.num_cpus} CPUs and {node.num_gpus} GPUs" for node in nodes]
    if len(nodes) > 1 and len(set(nodes)) == 1:
        return f"{shares[0]} on each of {len(nodes)} nodes"
    return ", ".join(f"{share} on a node" for share in shares)
