"""Reads the spec of a job, a sweep or a comparison as a RayJob can hold it.

The rules that need no file are checked here; the files are in the cluster, where the job checks
them.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pod_rules import parse_in_pods

from service.compare.kind import Script, script_of
from service.compare.loading import parse_comparison_fields
from service.compare.rules import check_comparison
from service.spec.errors import BadInputError, Problem
from service.spec.loading import SHORTER, SPEC_LIMIT_BYTES, read_json
from service.spec.sections import Resources
from service.sweep.loading import parse_sweep_fields
from service.sweep.rules import check_sweep

# KubeRay names a cluster after its RayJob and adds to it.
MAX_NAME_LENGTH = 47
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


class Run(NamedTuple):
    """What a RayJob is made of."""

    script: Script
    """The script of jobs/ that takes the spec."""
    name: str
    text: str
    """The spec, complete: a base that was a file is in it."""
    resources: Resources
    """Of each of the jobs that run at a time."""
    max_concurrency: int
    """Jobs that may run at a time."""


def read_run(path: Path, name: str | None = None) -> Run:
    """Read a spec; ``name``: the RayJob's, if it is not to be the spec's own.

    Raises:
        BadInputError: with every problem that the spec shows without its files.
    """
    content = read_json(path)
    if not isinstance(content, Mapping):
        raise BadInputError(str(path), [Problem(str(path), "is not an object", "write {...}")])
    content = dict(content)
    if isinstance(content.get("base"), str):
        content["base"] = read_json(Path(content["base"]))
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    problems = _size_problems(str(path), text)
    if name is not None:
        problems += _name_problems(name, "--name")
    elif isinstance(own_name := content.get("name"), str):
        problems += _name_problems(own_name, "name")
    try:
        run = _parse(content, text, str(path))
    except BadInputError as error:
        known = {problem.where for problem in problems}
        problems += [problem for problem in error.problems if problem.where not in known]
    if problems:
        raise BadInputError(str(path), problems)
    return run if name is None else run._replace(name=name)


def _parse(content: dict[str, Any], text: str, subject: str) -> Run:
    script = script_of(content)
    if script == "distill":
        job = parse_in_pods(content, subject)
        return Run(script, job.name, text, job.resources, 1)
    if script == "compare":
        compare = parse_comparison_fields(content, subject)
        _, problems = check_comparison(compare, parse_in_pods)
        num_runs = sum(1 for _ in compare.rows()) * len(compare.seeds)
        concurrency = min(compare.concurrency or num_runs, num_runs)
        resources = compare.resources or compare.base.resources
        run = Run(script, compare.name, text, resources, concurrency)
    else:
        sweep = parse_sweep_fields(content, subject)
        problems = check_sweep(sweep, parse_in_pods)
        concurrency = min(sweep.concurrency or sweep.budget.trials, sweep.budget.trials)
        resources = sweep.resources or sweep.base.resources
        run = Run(script, sweep.name, text, resources, concurrency)
    if problems:
        raise BadInputError(subject, problems)
    return run


def _size_problems(where: str, text: str) -> list[Problem]:
    """A spec that a script does not read; a ConfigMap, with 1 MiB, would hold a little more."""
    size = len(text.encode())
    if size <= SPEC_LIMIT_BYTES:
        return []
    wrong = f"has {size:,} bytes with its base, and a spec may have {SPEC_LIMIT_BYTES:,}"
    return [Problem(where, wrong, SHORTER)]


def _name_problems(name: str, where: str) -> list[Problem]:
    if len(name) <= MAX_NAME_LENGTH and NAME.fullmatch(name):
        return []
    wrong = f"{name} is no DNS-1123 name of at most {MAX_NAME_LENGTH} characters after a letter"
    remedy = "use lower-case letters, digits and -, or give --name; the run keeps its own name"
    return [Problem(where, wrong, remedy)]
