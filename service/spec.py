"""What a run is: one JSON spec, read, checked and identified.

Imports neither torch nor ray, so that a spec is answered for within a second or two.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from service.dataset_facts import is_remote
from service.problems import BadInputError, Problem
from service.spec_data_sections import Augmentation, Dataset
from service.spec_fields import Section
from service.spec_rules import RULES, is_file_source
from service.spec_sections import (
    AdamW,
    Checkpoints,
    Evaluation,
    Method,
    Resources,
    Schedule,
    Sgd,
    Student,
    Teacher,
    Tracking,
    Training,
)


def _optimizer_kind(value: Any) -> str:  # noqa: ANN401 - JSON or a section
    """SGD where the spec does not say."""
    kind = value.get("kind", "sgd") if isinstance(value, Mapping) else getattr(value, "kind", "")
    return str(kind)


Optimizer = Annotated[
    Annotated[Sgd, Tag("sgd")] | Annotated[AdamW, Tag("adamw")], Discriminator(_optimizer_kind)
]


class JobSpec(Section):
    """Everything that a training run is. Two equal specs are the same run."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Name of the run and of its folder in the storage path; letters, digits, . _ and -."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the weights, the order of the samples and the augmentation."""
    dataset: Dataset
    augmentation: Augmentation = Augmentation()
    teacher: Teacher | None = None
    """Absent: plain training on the labels."""
    student: Student
    method: Method | None = None
    """Absent: the defaults if there is a teacher, cross-entropy alone if there is none."""
    optimizer: Optimizer = Sgd()
    schedule: Schedule = Schedule()
    training: Training = Training()
    resources: Resources = Resources()
    checkpoints: Checkpoints
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()

    @property
    def micro_batch_size(self) -> int:
        """Images per forward pass."""
        if self.training.micro_batch_size is not None:
            return self.training.micro_batch_size
        return self.training.global_batch_size // self.resources.max_workers

    @property
    def num_micro_batches(self) -> int:
        """Forward passes per optimizer step, over all workers."""
        return self.training.global_batch_size // self.micro_batch_size

    @property
    def run_path(self) -> Path:
        """The run's folder."""
        return self.checkpoints.storage_path / self.name

    def image_size(self, epoch: int) -> int:
        """Side of the training images in an epoch, counted from 0."""
        sizes = [s.size for s in self.augmentation.size_stages if s.from_epoch <= epoch]
        return sizes[-1] if sizes else self.augmentation.size

    @property
    def largest_image_size(self) -> int:
        """Greatest side of the training images in any epoch."""
        return max([self.augmentation.size, *(s.size for s in self.augmentation.size_stages)])

    @property
    def keeps_last_batch(self) -> bool:
        """Whether an epoch ends with a smaller step where its images fill no batch."""
        return self.training.last_batch == "keep"

    def effective_method(self) -> Method:
        """The loss weights in force, defaults resolved."""
        if self.method is not None:
            return self.method
        return Method() if self.teacher else Method(alpha=0.0, beta=0.0, gamma=1.0)

    def content_hash(self) -> str:
        """SHA-256 of the spec's canonical JSON, defaults filled in; 64 hexadecimal digits.

        Neither the order of the keys nor leaving out a default changes it.
        """
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def load_spec(path: Path) -> JobSpec:
    """Read and check a spec file; relative paths in it start from the current directory.

    Raises:
        BadInputError: with every problem that the text, the fields and the files they name show.
    """
    return parse_spec(read_json(path), subject=str(path))


def parse_spec(content: Any, subject: str = "spec") -> JobSpec:  # noqa: ANN401 - it is JSON
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
    if problems:
        raise BadInputError(subject, problems)
    return spec


def differing_fields(old: Section, new: Section) -> list[str]:
    """Paths of the fields in which two specs differ, such as ``method.alpha``."""
    return _differences(old.model_dump(mode="json"), new.model_dump(mode="json"), "")


def _differences(old: Any, new: Any, path: str) -> list[str]:  # noqa: ANN401 - any JSON value
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(old) + [key for key in new if key not in old]
        prefix = f"{path}." if path else ""
        return [
            difference
            for key in keys
            for difference in _differences(old.get(key), new.get(key), f"{prefix}{key}")
        ]
    return [] if old == new else [path]


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
        problem = Problem(place, f"is not JSON ({error.msg})", "mend the text there")
    raise BadInputError(str(path), [problem])


def _valid_part(content: Mapping[str, Any]) -> JobSpec:
    """A spec with just the sections that are valid, so that rules can judge what there is."""
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
    """Workers run in another directory, so paths are resolved before they travel."""
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
"""What pydantic says where a field has alternatives; the user has written no such thing."""


def problem_of(detail: ErrorDetails) -> Problem:
    """What pydantic found, in the words of this service."""
    where = ".".join(str(part) for part in detail["loc"] if part not in UNION_TAGS) or "$"
    if detail["type"] == "missing":
        return Problem(where, "is missing", "it has no default and must be given")
    if detail["type"] == "extra_forbidden":
        return Problem(where, "is not a field of the spec", "remove it or mend its name")
    if detail["type"] == "union_tag_invalid":
        kind = detail["ctx"]["tag"]
        return Problem(f"{where}.kind", f"is {kind!r}", f"use {detail['ctx']['expected_tags']}")
    message = detail["msg"]
    return Problem(where, f"is {detail['input']!r}", message[0].lower() + message[1:])
