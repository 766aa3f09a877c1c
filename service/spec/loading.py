"""Reads job specs: JSON text to a checked spec, with every mistake in one error.

Answers within a second or two: neither torch nor ray is imported.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from data_pipeline.facts import DatasetFacts
from data_pipeline.json_files import TooLargeError, UnusableFileError
from data_pipeline.json_files import read_json as read_json_file
from service.spec.data_rules import check_data, read_facts
from service.spec.errors import BadInputError, Problem
from service.spec.field_problems import problems_of
from service.spec.file_rules import FILE_RULES
from service.spec.job import JobSpec
from service.spec.networks import changed_networks
from service.spec.paths import absolute_path, path_remedy
from service.spec.rules import FIELD_RULES, check_rules
from service.spec.secrets import environment_problems, secret_problems, without_secrets
from service.spec.section_paths import absolute_paths, home_problems, refused_paths
from service.spec.teacher_cache_rules import check_cache_limit
from service.spec.teacher_classes import resolve_classes
from service.spec.weights_cards import check_weights_cards

SPEC_LIMIT_BYTES = 1_000_000
SHORTER = "remove fields that have their defaults, variants, or choices"
"""What to do about a spec that is too large."""
CACHE_SECTIONS = ("teacher", "losses", "schedule", "augmentation")
"""What the size of the teacher's stored logits depends on, beside the dataset."""


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
    sections, problems = check_sections(content)
    problems += [*environment_problems(), *home_problems(sections)]
    sections |= absolute_paths(sections)
    refused = refused_paths(sections)
    problems += refused
    for problem in refused:
        # No rule can check a section with such a path.
        sections.pop(problem.where.partition(".")[0], None)
    problems += check_rules((*FIELD_RULES, *FILE_RULES), sections)
    facts: dict[str, DatasetFacts] = {}
    if dataset := sections.get("dataset"):
        facts, unreadable = read_facts(dataset)
        others = sections.get("augmentation"), sections.get("training")
        problems += [*unreadable, *check_data(facts, dataset, *others)]
        if "train" in facts and sections.keys() >= set(CACHE_SECTIONS):
            needed = (sections[name] for name in CACHE_SECTIONS)
            problems += check_cache_limit(facts["train"], dataset, *needed)
    labeled = facts.get(dataset.labeled_split) if dataset else None
    # Images that lack the labels they must have are a problem of their own, and have no classes.
    has_classes = labeled is not None and not labeled.is_unlabeled
    if labeled is not None and has_classes and {"student", "teacher"} <= sections.keys():
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
    except TooLargeError as error:
        problem = Problem("file", f"{error.path} {error.wrong}", SHORTER)
    except UnusableFileError as error:
        problem = Problem(error.where, error.wrong, error.remedy)
        if not error.where:
            wrong = f"{error.path} {error.wrong}"
            problem = Problem("file", wrong, path_remedy(path, "the path of a JSON spec"))
    raise BadInputError(str(path), [problem])


def check_sections(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The sections and fields of a spec that are valid, by name, and every problem of the others.

    Paths are as given, and secrets are left out.
    """
    problems = list(secret_problems(content))
    content = without_secrets(content)
    try:
        JobSpec.model_validate(content)
    except ValidationError as error:
        problems += problems_of(error, JobSpec)
    return _valid_sections(content), problems


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
