"""Reads job specs: JSON text to a checked spec, with every mistake in one error.

Answers within a second or two: neither torch nor ray is imported.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from data_pipeline.facts import DatasetFacts
from data_pipeline.files import is_remote
from data_pipeline.json_files import UnusableFileError
from data_pipeline.json_files import read_json as read_json_file
from service.spec.data_rules import check_data, read_facts
from service.spec.data_sections import Dataset
from service.spec.errors import MAX_PROBLEMS, BadInputError, Problem
from service.spec.fields import Section
from service.spec.job import JobSpec
from service.spec.paths import (
    absolute_path,
    absolute_uri,
    home_problem,
    path_remedy,
    refused_path,
    sqlite_path,
)
from service.spec.rules import RULES
from service.spec.secrets import environment_problems, secret_problems, without_secrets
from service.spec.sections import is_file_source
from service.spec.suggestions import nearest_field, nearest_value
from service.spec.weights_metadata import check_weights_cards

SPEC_LIMIT_BYTES = 1_000_000


class LoadedJob(NamedTuple):
    """A valid spec, and what its datasets contain."""

    spec: JobSpec
    train: DatasetFacts
    val: DatasetFacts


def load_job(path: Path) -> LoadedJob:
    """Read and check a spec file; relative paths in it start from the current directory.

    Raises:
        BadInputError: with every problem that the text, the fields and the files they name show.
    """
    return parse_job(read_json(path), subject=str(path))


def load_spec(path: Path) -> JobSpec:
    """The spec of ``load_job``."""
    return load_job(path).spec


def parse_spec(content: Any, subject: str = "spec") -> JobSpec:  # noqa: ANN401 - it is JSON
    """The spec of ``parse_job``."""
    return parse_job(content, subject).spec


def parse_job(content: Any, subject: str = "spec") -> LoadedJob:  # noqa: ANN401 - it is JSON
    """Check a spec given as JSON data and make its paths absolute.

    Raises:
        BadInputError: with every problem found.
    """
    if not isinstance(content, Mapping):
        raise BadInputError(subject, [Problem("$", "is not an object", "write {...}")])
    problems = [*secret_problems(content), *environment_problems()]
    content = without_secrets(content)
    try:
        JobSpec.model_validate(content)
    except ValidationError as error:
        problems += problems_of(error, JobSpec)
    spec = _valid_part(content)
    problems += home_problems(spec)
    spec = with_absolute_paths(spec)
    problems += _remove_refused_paths(spec)
    for needs, rule in RULES:
        if all(hasattr(spec, section) for section in needs):
            problems += rule(spec)
    facts: dict[str, DatasetFacts] = {}
    if hasattr(spec, "dataset"):
        facts, unreadable = read_facts(spec.dataset)
        problems += [*unreadable, *check_data(spec, facts)]
    if "train" in facts and all(hasattr(spec, role) for role in ("student", "teacher")):
        problems += check_weights_cards(spec, facts["train"].classes)
    if problems:
        raise BadInputError(subject, problems)
    return LoadedJob(spec, facts["train"], facts["val"])


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """JSON data of a file.

    Raises:
        BadInputError: no such file, no JSON, or a field that is given twice.
    """
    try:
        return read_json_file(absolute_path(path), SPEC_LIMIT_BYTES, object, follow_links=True)
    except OSError as error:
        wrong = f"{absolute_path(path)}: {error.strerror or error}"
        problem = Problem("file", wrong, path_remedy(path, "the path of a JSON spec"))
    except UnusableFileError as error:
        problem = Problem(error.where, error.wrong, error.remedy)
        if not error.where:
            wrong = f"{error.path} {error.wrong}"
            problem = Problem("file", wrong, path_remedy(path, "the path of a JSON spec"))
    raise BadInputError(str(path), [problem])


def _valid_part(content: Mapping[str, Any]) -> JobSpec:
    """A spec with only the sections that are valid, so that rules can check what there is."""
    sections: dict[str, Any] = {}
    invalid = set()
    for name, field in JobSpec.model_fields.items():
        if name in content:
            try:
                sections[name] = TypeAdapter(field.rebuild_annotation()).validate_python(
                    content[name]
                )
            except ValidationError:
                invalid.add(name)
        elif field.is_required():
            invalid.add(name)
    spec = JobSpec.model_construct(set(sections), **sections)
    for name in invalid:
        spec.__dict__.pop(name, None)
    return spec


def with_absolute_paths(spec: JobSpec) -> JobSpec:
    """The spec with absolute paths: workers run in another directory.

    Sections that are missing, because they are invalid, are left out.
    """
    changes: dict[str, Section] = {}
    if checkpoints := getattr(spec, "checkpoints", None):
        path = absolute_path(checkpoints.storage_path)
        changes["checkpoints"] = checkpoints.model_copy(update={"storage_path": path})
    if dataset := getattr(spec, "dataset", None):
        changes["dataset"] = _with_absolute_locations(dataset)
    for name in ("teacher", "student"):
        model = getattr(spec, name, None)
        if model and model.weights and is_file_source(model.weights.source):
            source = str(absolute_path(model.weights.source))
            weights = model.weights.model_copy(update={"source": source})
            changes[name] = model.model_copy(update={"weights": weights})
    tracking = getattr(spec, "tracking", None)
    if tracking and tracking.uri is not None:
        changes["tracking"] = tracking.model_copy(update={"uri": absolute_uri(tracking.uri)})
    return spec.model_copy(update=changes)


def home_problems(spec: JobSpec) -> Iterator[Problem]:
    """Paths that start with the home directory of a user who does not exist."""
    for where, path in _paths(spec).items():
        if problem := home_problem(where, path):
            yield problem


def _remove_refused_paths(spec: JobSpec) -> list[Problem]:
    """A problem for each path that the system refuses, whose section no rule can check then."""
    paths = _paths(spec)
    tracking = getattr(spec, "tracking", None)
    if tracking and tracking.uri and (database := sqlite_path(tracking.uri)):
        paths["tracking.uri"] = database
    problems = []
    for where, path in paths.items():
        longest = path
        if where == "checkpoints.storage_path" and hasattr(spec, "name"):
            longest = spec.run_path / LONGEST_NAME
        if not is_remote(str(path)) and (reason := refused_path(longest)):
            spec.__dict__.pop(where.partition(".")[0], None)
            problems.append(Problem(where, f"{path}: {reason}", "give another path"))
    return problems


def _paths(spec: JobSpec) -> dict[str, Path | str]:
    """The paths in the sections of a spec that are valid, by field; URIs of weights are not."""
    paths: dict[str, Path | str] = {}
    if checkpoints := getattr(spec, "checkpoints", None):
        paths["checkpoints.storage_path"] = checkpoints.storage_path
    if dataset := getattr(spec, "dataset", None):
        paths |= {"dataset.train": dataset.train, "dataset.val": dataset.val}
        if dataset.cache:
            paths["dataset.cache.path"] = dataset.cache.path
    for name in ("teacher", "student"):
        model = getattr(spec, name, None)
        if model and model.weights and is_file_source(model.weights.source):
            paths[f"{name}.weights.source"] = model.weights.source
    return paths


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


LONGEST_NAME = "x" * 200
"""As long as the path of any file within a run's folder."""

UNION_TAGS = ("sgd", "adamw", "number", "range")
"""What pydantic adds to a location where a field has alternatives; the user did not write it."""


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """What pydantic found in the content of a ``model``, in this service's form."""
    details = [
        detail
        for detail in error.errors(include_url=False)
        # A default that depends on a field which has a problem of its own.
        if detail["type"] != "default_factory_not_called"
    ]
    # Suggestions take time, and more problems are not listed.
    problems = [_problem_of(detail, model) for detail in details[:MAX_PROBLEMS]]
    return problems + [
        Problem(_where(detail), "is not valid", detail["msg"]) for detail in details[MAX_PROBLEMS:]
    ]


def _where(detail: ErrorDetails) -> str:
    return ".".join(str(part) for part in detail["loc"] if part not in UNION_TAGS) or "$"


def _problem_of(detail: ErrorDetails, model: type[BaseModel]) -> Problem:
    parts = [part for part in detail["loc"] if part not in UNION_TAGS]
    where = _where(detail)
    if detail["type"] == "missing":
        return Problem(where, "is missing", "it has no default and must be given")
    if detail["type"] == "extra_forbidden":
        return Problem(where, "is not a field of the spec", field_remedy(model, parts))
    if detail["type"] == "union_tag_invalid":
        kind = detail["ctx"]["tag"]
        return _choice_problem(f"{where}.kind", kind, detail["ctx"]["expected_tags"])
    if detail["type"] == "literal_error":
        return _choice_problem(where, detail["input"], detail["ctx"]["expected"])
    message = detail["msg"]
    return Problem(where, f"is {detail['input']!r}", message[0].lower() + message[1:])


def field_remedy(model: type[BaseModel], location: Sequence[str | int]) -> str:
    """What to do about a field that does not exist; ``location``: the keys that lead to it."""
    nearest = nearest_field(model, location)
    return "remove it or fix its name" if nearest is None else f"did you mean {nearest}?"


def _choice_problem(where: str, value: object, expected: str) -> Problem:
    """``expected``: the choices as pydantic writes them, such as 'sgd' or 'adamw'."""
    nearest = nearest_value(value, re.findall(r"'([^']*)'", expected))
    hint = "" if nearest is None else f"; did you mean {nearest!r}?"
    return Problem(where, f"is {value!r}", f"use {expected}{hint}")
