"""What tells keys of the cache apart, in the terms of a spec: why stored logits are not read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.text import printable
from service.spec.networks import TEACHER
from service.teacher_cache.entry import key_of_entry, stored_keys
from service.teacher_cache.key import Key, digest_of

FIELDS = {
    "format": "the version of the service",
    "keep": "teacher.cache.keep",
    "dataset": "dataset.train",
    "num_classes": "dataset.num_classes",
    "held_out": "dataset.held_out",
    "normalization": "dataset.normalization",
    "repeats_in": "training.global_batch_size",
    "size": "augmentation.size",
    "num_views": "the teacher's views of an image",
    "crop_size": "evaluation.crop_size",
    "execution.precision": "the teacher's precision",
    "execution.teacher_form": "the teacher's form",
    "execution.cast_teacher": "whether the teacher's weights are cast",
    "execution.matmul_precision": "training.matmul_precision",
    "execution.device": "the device",
}
"""How people know a field of the key, where that is not its name there."""

MAX_SHOWN = 3
MAX_VALUE_LENGTH = 40
DIGEST_LENGTH, DIGEST_SHOWN = 64, 8


FieldPath = tuple[str, ...]


class Difference(NamedTuple):
    """A field with two values, as text."""

    field: str
    old: str
    new: str


def differences(old: Key, new: Key) -> list[Difference]:
    """The fields in which two keys differ; a section that only one has is one field."""
    return [
        Difference(_name(path), _text(before), _text(after))
        for path, before, after in _differing(old, new)
    ]


def miss_text(cache_path: Path, key: Key) -> str | None:
    """Why a cache that has logits of the same images or teacher has none for a key, in one line.

    None if it has some for the key, or nothing alike that can be read.
    """
    if key_of_entry(cache_path / digest_of(key)) == key:
        return None
    others = stored_keys(cache_path).values()
    found = [differences(other, key) for other in others if _is_alike(other, key)]
    if not found:
        return None
    nearest = min(found, key=len)
    parts = [f"{d.field} {d.old} instead of {d.new}" for d in nearest[:MAX_SHOWN]]
    more = f" and {len(nearest) - MAX_SHOWN} more" if len(nearest) > MAX_SHOWN else ""
    return (
        "teacher.cache: nothing is stored for this run, whose logits are computed; the most "
        f"similar ones that are stored have {', '.join(parts)}{more}"
    )


def _is_alike(old: Key, new: Key) -> bool:
    """Whether a user may have expected that the logits are shared."""
    if old.get("weights") == new["weights"]:
        return True
    return old.get("dataset") == new["dataset"] and _models(old) == _models(new)


def _models(key: Key) -> list[object]:
    networks = key.get("teacher")
    if not isinstance(networks, list):
        return []
    return [network.get("model") for network in networks if isinstance(network, dict)]


def _differing(old: Any, new: Any, path: FieldPath = ()) -> Iterator[tuple[FieldPath, Any, Any]]:  # noqa: ANN401 - JSON
    """The paths of the smallest parts of JSON data that differ, and both values; None: absent."""
    old, new = _by_name(old), _by_name(new)
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*new, *old]):
            yield from _differing(old.get(name), new.get(name), (*path, name))
    elif old != new:
        yield path, old, new


def _by_name(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """A list of objects as an object, whose names are their numbers; all else as it is."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return {str(number): item for number, item in enumerate(value)}
    return value


def _name(path: FieldPath) -> str:
    name = ".".join(path)
    if name in FIELDS:
        return FIELDS[name]
    first, *rest = path
    if first == TEACHER and rest and rest[0].isdigit():
        number, *fields = rest
        network = TEACHER if number == "0" else f"{TEACHER}.others.{int(number) - 1}"
        return ".".join([network, *fields])
    if first == "weights":
        return ".".join([*rest, first])
    return printable(".".join([FIELDS.get(first, first), *rest]))


def _text(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if value is None:
        return "none"
    text = printable(value) if isinstance(value, str) else json.dumps(value)
    if len(text) == DIGEST_LENGTH and text.isalnum():
        return text[:DIGEST_SHOWN]
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 3]}..."
