"""Reads job specs: JSON text to a checked spec, with every mistake in one error.

Answers within a second or two: neither torch nor ray is imported.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from data_pipeline.facts import DatasetFacts
from data_pipeline.json_files import UnusableFileError
from data_pipeline.json_files import read_json as read_json_file
from service.spec.data_rules import check_data, read_facts
from service.spec.errors import MAX_PROBLEMS, BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.losses.temperatures import TEMPERATURE_KINDS
from service.spec.networks import changed_networks
from service.spec.paths import absolute_path, path_remedy
from service.spec.rules import check_rules
from service.spec.secrets import environment_problems, secret_problems, without_secrets
from service.spec.section_paths import absolute_paths, home_problems, refused_paths
from service.spec.suggestions import nearest_field, nearest_value
from service.spec.teacher_classes import resolve_classes
from service.spec.weights_cards import check_weights_cards

SPEC_LIMIT_BYTES = 1_000_000


class LoadedJob(NamedTuple):
    """A valid spec, and what its datasets contain."""

    spec: JobSpec
    train: DatasetFacts
    val: DatasetFacts

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the run's classes by label, if they are known: val's if train has no labels."""
        facts = {"train": self.train, "val": self.val}
        return facts[self.spec.dataset.labeled_split].classes


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
    sections = _valid_sections(content)
    problems += home_problems(sections)
    sections |= absolute_paths(sections)
    refused = refused_paths(sections)
    problems += refused
    for problem in refused:
        # No rule can check a section with such a path.
        sections.pop(problem.where.partition(".")[0], None)
    problems += check_rules(sections)
    facts: dict[str, DatasetFacts] = {}
    if dataset := sections.get("dataset"):
        facts, unreadable = read_facts(dataset)
        others = sections.get("augmentation"), sections.get("training")
        problems += [*unreadable, *check_data(facts, dataset, *others)]
    labeled = facts.get(dataset.labeled_split) if dataset else None
    if labeled is not None and {"student", "teacher"} <= sections.keys():
        models = sections["student"], sections["teacher"]
        problems += check_weights_cards(*models, labeled.classes)
        changes, found = resolve_classes(models[1], sections["dataset"], labeled.classes)
        problems += found
        sections |= changed_networks(*models, changes)
    if problems:
        raise BadInputError(subject, problems)
    given = {name: one for name, one in sections.items() if name in content}
    return LoadedJob(JobSpec.model_validate(given), facts["train"], facts["val"])


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


def _valid_sections(content: Mapping[str, Any]) -> dict[str, Any]:
    """The sections and fields of a spec that are valid, whatever the others are."""
    sections: dict[str, Any] = {}
    for name, field in JobSpec.model_fields.items():
        if name not in content:
            if not field.is_required():
                sections[name] = field.get_default()
            continue
        with contextlib.suppress(ValidationError):
            adapter = TypeAdapter[Any](field.rebuild_annotation())
            sections[name] = adapter.validate_python(content[name])
    return sections


ADDED_PARTS = ("sgd", "adamw", "number", "range", "word", "indices", "pixels", "[key]")
"""What pydantic adds to a location where a field has alternatives, and to that of the name of a
mapping's entry; the user did not write it."""


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


def _parts(detail: ErrorDetails) -> list[int | str]:
    """The keys and indices in the spec that lead to a problem."""
    location = detail["loc"]
    return [
        part
        for parent, part in zip(("", *location), location, strict=False)
        if part not in ADDED_PARTS and not (parent == "temperature" and part in TEMPERATURE_KINDS)
    ]


def _where(detail: ErrorDetails) -> str:
    return ".".join(map(str, _parts(detail))) or "$"


def _problem_of(detail: ErrorDetails, model: type[BaseModel]) -> Problem:
    parts = _parts(detail)
    where = _where(detail)
    if detail["type"] == "missing":
        return Problem(where, "is missing", "it has no default and must be given")
    if detail["type"] == "extra_forbidden":
        return Problem(where, "is not a field of the spec", field_remedy(model, parts))
    if detail["type"] == "union_tag_invalid":
        # A number, which may take the place of sections, has no kind.
        *kinds, last = detail["ctx"]["expected_tags"].removeprefix("'number', ").split(", ")
        expected = " or ".join([", ".join(kinds), last] if kinds else [last])
        if not (isinstance(detail["input"], Mapping) and "kind" in detail["input"]):
            return Problem(f"{where}.kind", "is missing", f"use {expected}")
        return _choice_problem(f"{where}.kind", detail["input"]["kind"], expected)
    if detail["type"] == "literal_error":
        return _choice_problem(where, detail["input"], detail["ctx"]["expected"])
    if detail["type"] in ("model_type", "model_attributes_type"):
        return Problem(where, f"is {detail['input']!r}", "give an object, such as {}")
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
