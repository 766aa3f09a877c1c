"""Reads job specs: JSON text to a checked spec, with every mistake in one error.

Answers within a second or two: neither torch nor ray is imported.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from data_pipeline.facts import DatasetFacts
from data_pipeline.files import is_remote
from service.spec.data_rules import check_data, read_facts
from service.spec.data_sections import Dataset
from service.spec.errors import BadInputError, Problem
from service.spec.fields import Section
from service.spec.job import JobSpec
from service.spec.rules import RULES
from service.spec.sections import is_file_source
from service.spec.weights_metadata import check_weights_cards


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
    problems: list[Problem] = []
    try:
        JobSpec.model_validate(content)
    except ValidationError as error:
        problems += [problem_of(detail) for detail in error.errors()]
    spec = with_absolute_paths(_valid_part(content))
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

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                problem = Problem(key, "is given twice", "keep one of the two")
                raise BadInputError(str(path), [problem])
        return dict(pairs)

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except OSError as error:
        problem = Problem("file", error.strerror or str(error), "give the path of a JSON spec")
    except UnicodeDecodeError as error:
        problem = Problem(f"byte {error.start}", "is not UTF-8 text", "save the file as UTF-8")
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        problem = Problem(place, f"is not JSON ({error.msg})", "fix the text there")
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
        path = checkpoints.storage_path.absolute()
        changes["checkpoints"] = checkpoints.model_copy(update={"storage_path": path})
    if dataset := getattr(spec, "dataset", None):
        changes["dataset"] = _with_absolute_locations(dataset)
    for name in ("teacher", "student"):
        model = getattr(spec, name, None)
        if model and model.weights and is_file_source(model.weights.source):
            source = str(Path(model.weights.source).absolute())
            weights = model.weights.model_copy(update={"source": source})
            changes[name] = model.model_copy(update={"weights": weights})
    return spec.model_copy(update=changes)


def _with_absolute_locations(dataset: Dataset) -> Dataset:
    locations: dict[str, object] = {
        split: str(Path(location).absolute())
        for split in ("train", "val")
        if not is_remote(location := getattr(dataset, split))
    }
    if dataset.cache:
        path = dataset.cache.path.absolute()
        locations["cache"] = dataset.cache.model_copy(update={"path": path})
    return dataset.model_copy(update=locations)


UNION_TAGS = ("sgd", "adamw", "number", "range")
"""What pydantic adds to a location where a field has alternatives; the user did not write it."""


def problem_of(detail: ErrorDetails) -> Problem:
    """What pydantic found, in this service's form."""
    where = ".".join(str(part) for part in detail["loc"] if part not in UNION_TAGS) or "$"
    if detail["type"] == "missing":
        return Problem(where, "is missing", "it has no default and must be given")
    if detail["type"] == "extra_forbidden":
        return Problem(where, "is not a field of the spec", "remove it or fix its name")
    if detail["type"] == "union_tag_invalid":
        kind = detail["ctx"]["tag"]
        return Problem(f"{where}.kind", f"is {kind!r}", f"use {detail['ctx']['expected_tags']}")
    message = detail["msg"]
    return Problem(where, f"is {detail['input']!r}", message[0].lower() + message[1:])
