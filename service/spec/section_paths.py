"""The paths in the sections of a spec: made absolute, and refused where no system can use them.

Each function gets the sections that are valid, by name.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.files import is_remote
from service.spec.data_sections import Dataset
from service.spec.errors import Problem
from service.spec.fields import Section
from service.spec.networks import TEACHER, changed_networks, networks_of
from service.spec.paths import absolute_path, absolute_uri, home_problem, refused_path, sqlite_path
from service.spec.sections import Weights, is_file_source

LONGEST_NAME = "x" * 200
"""As long as the path of any file within a run's folder."""


def absolute_paths(sections: Mapping[str, Any]) -> dict[str, Section]:
    """The sections that have paths, with absolute ones: workers run in another directory."""
    changed: dict[str, Section] = {}
    if checkpoints := sections.get("checkpoints"):
        path = absolute_path(checkpoints.storage_path)
        changed["checkpoints"] = checkpoints.model_copy(update={"storage_path": path})
    if dataset := sections.get("dataset"):
        changed["dataset"] = _with_absolute_locations(dataset)
    student, teacher = sections.get("student"), sections.get("teacher")
    changes: dict[str, dict[str, object]] = {
        path: {"weights": each.model_copy(update={"source": str(absolute_path(each.source))})}
        for path, each in _weights_files(sections).items()
    }
    if teacher and teacher.cache and teacher.cache.path is not None:
        path = absolute_path(teacher.cache.path)
        cache = teacher.cache.model_copy(update={"path": path})
        changes[TEACHER] = {**changes.get(TEACHER, {}), "cache": cache}
    changed |= changed_networks(student, teacher, changes)
    tracking = sections.get("tracking")
    if tracking and tracking.uri is not None:
        changed["tracking"] = tracking.model_copy(update={"uri": absolute_uri(tracking.uri)})
    return changed


def home_problems(sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Paths that start with the home directory of a user who does not exist."""
    for where, path in field_paths(sections).items():
        if problem := home_problem(where, path):
            yield problem


def refused_paths(sections: Mapping[str, Any]) -> list[Problem]:
    """Paths that the system refuses."""
    paths = field_paths(sections)
    tracking = sections.get("tracking")
    if tracking and tracking.uri and (database := sqlite_path(tracking.uri)):
        paths["tracking.uri"] = database
    problems = []
    for where, path in paths.items():
        longest = path
        if where == "checkpoints.storage_path" and "name" in sections:
            longest = Path(path) / sections["name"] / LONGEST_NAME
        if not is_remote(str(path)) and (reason := refused_path(longest)):
            problems.append(Problem(where, f"{path}: {reason}", "give another path"))
    return problems


def field_paths(sections: Mapping[str, Any]) -> dict[str, Path | str]:
    """The paths by field; URIs of weights are not."""
    paths: dict[str, Path | str] = {}
    if checkpoints := sections.get("checkpoints"):
        paths["checkpoints.storage_path"] = checkpoints.storage_path
    if dataset := sections.get("dataset"):
        paths |= {"dataset.train": dataset.train, "dataset.val": dataset.val}
        if dataset.cache:
            paths["dataset.cache.path"] = dataset.cache.path
    teacher = sections.get("teacher")
    if teacher and teacher.cache and teacher.cache.path is not None:
        paths["teacher.cache.path"] = teacher.cache.path
    weights = _weights_files(sections)
    return paths | {f"{path}.weights.source": each.source for path, each in weights.items()}


def _weights_files(sections: Mapping[str, Any]) -> dict[str, Weights]:
    """The weights that are files, by the paths of their networks."""
    networks = networks_of(sections.get("student"), sections.get("teacher"))
    return {
        path: network.weights
        for path, network in networks.items()
        if network.weights and is_file_source(network.weights.source)
    }


def _with_absolute_locations(dataset: Dataset) -> Dataset:
    locations: dict[str, object] = {
        split: str(absolute_path(location))
        for split in ("train", "val")
        if not is_remote(location := getattr(dataset, split))
    }
    if dataset.cache:
        path = absolute_path(dataset.cache.path)
        locations["cache"] = dataset.cache.model_copy(update={"path": path})
    return dataset.model_copy(update=locations)
