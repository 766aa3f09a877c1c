"""Reads the spec of a job, a sweep or a comparison as a RayJob can hold it.

The fields are checked here; the files that they name are in the cluster, where the job checks them.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from data_pipeline.files import is_remote
from service.compare.kind import Script, script_of
from service.compare.spec import CompareSpec
from service.spec.errors import BadInputError, Problem
from service.spec.field_problems import problems_of
from service.spec.job import JobSpec
from service.spec.loading import read_json
from service.spec.secrets import secret_problems
from service.spec.section_paths import field_paths
from service.spec.sections import Resources
from service.sweep.loading import parse_fields
from service.sweep.spec import SweepSpec

# A ConfigMap holds 1 MiB, with its keys; KubeRay names a cluster after its RayJob and adds to it.
MAX_SPEC_BYTES = 1_000_000
MAX_NAME_LENGTH = 47
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
# What pods have mounted at each path, by what a field's file is for.
READABLE = ("/data", "/runs")
WRITABLE = {"checkpoints.storage_path": ("/runs",)}
CACHES = ("/runs", "/tmp")


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
    run, base = _parse(content, str(path))
    run = run if name is None else run._replace(name=name)
    problems = [*_name_problems(run.name, "--name" if name else "name"), *_path_problems(base)]
    if (size := len(run.text.encode())) > MAX_SPEC_BYTES:
        wrong = f"has {size:,} bytes with its base, and a ConfigMap holds {MAX_SPEC_BYTES:,}"
        problems.append(Problem(str(path), wrong, "leave out fields that have their defaults"))
    if problems:
        raise BadInputError(str(path), problems)
    return run


def _parse(content: dict[str, Any], subject: str) -> tuple[Run, JobSpec]:
    """The run of a spec, and the job that says where its files are."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    script = script_of(content)
    if script == "compare":
        compare = parse_fields(content, CompareSpec, subject)
        num_runs = sum(1 for _ in compare.rows()) * len(compare.seeds)
        concurrency = min(compare.concurrency or num_runs, num_runs)
        resources = compare.resources or compare.base.resources
        return Run(script, compare.name, text, resources, concurrency), compare.base
    if script == "sweep":
        sweep = parse_fields(content, SweepSpec, subject)
        concurrency = min(sweep.concurrency or sweep.budget.trials, sweep.budget.trials)
        resources = sweep.resources or sweep.base.resources
        return Run(script, sweep.name, text, resources, concurrency), sweep.base
    problems = list(secret_problems(content))
    try:
        job = JobSpec.model_validate(content)
    except ValidationError as error:
        raise BadInputError(subject, [*problems, *problems_of(error, JobSpec)]) from error
    if problems:
        raise BadInputError(subject, problems)
    return Run(script, job.name, text, job.resources, 1), job


def _name_problems(name: str, where: str) -> list[Problem]:
    if len(name) <= MAX_NAME_LENGTH and NAME.fullmatch(name):
        return []
    wrong = f"{name} is no DNS-1123 name of at most {MAX_NAME_LENGTH} characters after a letter"
    remedy = "use lower-case letters, digits and -, or give --name; the run keeps its own name"
    return [Problem(where, wrong, remedy)]


def _path_problems(job: JobSpec) -> list[Problem]:
    """Paths that no pod has: data sets are mounted at /data, and what runs write at /runs."""
    problems = []
    for field, path in field_paths(
        {name: getattr(job, name) for name in JobSpec.model_fields}
    ).items():
        roots = WRITABLE.get(field, CACHES if "cache" in field else READABLE)
        is_mounted = any(Path(path).is_relative_to(root) for root in roots)
        if not is_remote(str(path)) and (not is_mounted or ".." in Path(path).parts):
            remedy = f"give a path below {' or '.join(roots)}"
            problems.append(Problem(field, f"{path} is not in the pods", remedy))
    return problems
