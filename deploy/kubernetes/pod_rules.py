"""Checks a job's spec for the pods of a run, where its files are: whatever needs none of them.

Data sets are mounted at /data, what runs write is at /runs, and no pod has a way out of the
cluster: network policies deny it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.files import is_remote
from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.loading import check_sections
from service.spec.networks import networks_of
from service.spec.paths import has_long_name
from service.spec.rules import FIELD_RULES, check_rules
from service.spec.section_paths import field_paths
from service.spec.weights_metadata import TORCHVISION

MLFLOW = "http://mlflow:5000"
# What pods have mounted at each path, by what a field's file is for.
READABLE = ("/data", "/runs")
WRITABLE = {"checkpoints.storage_path": ("/runs",)}
CACHES = ("/runs", "/tmp")


def parse_in_pods(content: Mapping[str, Any], subject: str = "spec") -> JobSpec:
    """Check a job's spec given as JSON data, without the files that it names.

    Raises:
        BadInputError: with every problem found.
    """
    sections, problems = check_sections(content)
    problems += _pod_problems(sections)
    # What pods need of a field is more than what every machine does.
    known = {problem.where for problem in problems}
    problems += [p for p in check_rules(FIELD_RULES, sections) if p.where not in known]
    if problems:
        raise BadInputError(subject, problems)
    return JobSpec.model_validate(content)


def _pod_problems(sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Paths that no pod has, and addresses that none reaches."""
    for field, path in field_paths(sections).items():
        roots = WRITABLE.get(field, CACHES if "cache" in field else READABLE)
        if is_remote(str(path)):
            yield _unreachable(field, str(path))
        elif not any(Path(path).is_relative_to(root) for root in roots) or ".." in Path(path).parts:
            remedy = f"give a path below {' or '.join(roots)}"
            yield Problem(field, f"{path} is not in the pods", remedy)
        elif has_long_name(path):
            yield Problem(field, f"{path} has a name that is too long", "give another path")
    for network, section in networks_of(sections.get("student"), sections.get("teacher")).items():
        if section.weights is not None and section.weights.source.startswith(TORCHVISION):
            yield _unreachable(f"{network}.weights.source", section.weights.source)
    tracking = sections.get("tracking")
    uri = tracking.uri if tracking is not None else None
    if uri is not None and not uri.startswith(("http://", "https://")):
        wrong = f"is {uri!r}, but runs in pods report to a server"
        yield Problem("tracking.uri", wrong, f"give {MLFLOW}")


def _unreachable(field: str, address: str) -> Problem:
    wrong = f"is {address}, but pods of runs have no way out of the cluster"
    return Problem(field, wrong, "copy it to /data, and give its path there")
