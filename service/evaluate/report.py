"""What an evaluation found: the dataclass that becomes the text, the JSON and the page."""

import json
import math
from dataclasses import dataclass
from typing import Any, NamedTuple


class Interval(NamedTuple):
    """A share, 0 to 1, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class ModelFacts(NamedTuple):
    """The model. Sizes in pixels; ``preprocessing_origin``: what says how images are prepared."""

    origin: str
    architecture: str
    num_classes: int
    num_parameters: int
    weights_sha256: str
    resize_size: int
    crop_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    preprocessing_origin: str


class DataFacts(NamedTuple):
    """The images: all of a file, each once. ``num_classes``: those that the file can have."""

    path: str
    fingerprint: str
    num_images: int
    num_classes: int


class ClassAccuracy(NamedTuple):
    """Top-1 on the images of a class; None without images."""

    name: str
    num_images: int
    top1: float | None


class Confusion(NamedTuple):
    """What ``num_images`` of a class are taken for, the ``share`` of all of the class.

    ``predicted``: a class's name, "several classes" (a tie), or "not finite" (of logits).
    """

    true: str
    predicted: str
    num_images: int
    share: float


class ReliabilityBin(NamedTuple):
    """Images of a bin of confidences; their accuracy and mean confidence, None without images."""

    num_images: int
    accuracy: float | None
    confidence: float | None


class TeacherAgreement(NamedTuple):
    """A second network on the same images; ``share``: for which both predict the same class."""

    origin: str
    share: float
    top1: Interval


class Latency(NamedTuple):
    """Seconds of a forward pass, by the size of its batch; ``num_threads`` of the CPU.

    ``peak_memory_bytes``: what the passes need beside the weights; None where it is not known.
    """

    batch_size: int
    device: str
    num_threads: int
    median_s: float
    p95_s: float
    images_per_s: float
    peak_memory_bytes: int | None


class CorruptedAccuracy(NamedTuple):
    """Top-1 on the images after a corruption; ``strength``: 1 to 5."""

    kind: str
    strength: int
    top1: Interval


@dataclass(frozen=True)
class EvaluationReport:
    """An evaluation of a model on a dataset.

    ``nll``: mean cross-entropy in nats, None where a logit is not finite. ``ece``: expected
    calibration error, 0 to 1, None if no image has finite logits. ``num_nonfinite``: images whose
    logits are not finite, which count as errors. ``per_class``: in the order of the labels.
    ``confusions``: of the worst classes, the worst one first. ``agreement``: None without a
    teacher. ``corruptions``: empty, and their mean None, where they were not asked for.
    """

    model: ModelFacts
    data: DataFacts
    top1: Interval
    top5: Interval
    nll: float | None
    ece: float | None
    num_nonfinite: int
    per_class: tuple[ClassAccuracy, ...]
    confusions: tuple[Confusion, ...]
    reliability: tuple[ReliabilityBin, ...]
    agreement: TeacherAgreement | None
    latency: tuple[Latency, ...]
    corruptions: tuple[CorruptedAccuracy, ...]
    mean_corrupted_top1: float | None
    precision: str
    device: str

    def as_json(self) -> str:
        """The report as JSON, with the fields' names as keys."""
        return json.dumps(_plain(vars(self)), indent=1, ensure_ascii=False) + "\n"


def finite_or_none(value: float) -> float | None:
    """The value where it is a number; JSON has no others."""
    return value if math.isfinite(value) else None


def _plain(value: Any) -> Any:  # noqa: ANN401 - any part of a report
    """Named tuples as dictionaries, which JSON would write as lists."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        fields = getattr(value, "_asdict", None)
        return _plain(fields()) if fields is not None else [_plain(inner) for inner in value]
    return value
