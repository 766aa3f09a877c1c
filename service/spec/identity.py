"""What identifies a run: which fields of its spec may change between submissions, and which not."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from service.spec.fields import Section

FREE_FIELDS = (
    "tracking",
    "dataset.cache",
    "teacher.min_top1",
    "teacher.min_top1_images",
    "teacher.cache.path",
    "teacher.cache.limit_bytes",
    "resources.max_failures",
    "resources.collective_timeout_s",
    "resources.heartbeat_timeout_s",
    "resources.resize_interval_s",
    "checkpoints.storage_path",
    "checkpoints.num_to_keep",
    "evaluation.batch_size",
)
"""They change no weight; the hash that identifies a run leaves them out."""

CHECKPOINT_TIMES = ("checkpoints.every_steps", "checkpoints.every_minutes")
"""They change no weight either, unless a run rolls back to its last checkpoint."""

LOCATIONS = (
    "dataset.train",
    "dataset.val",
    "teacher.weights.source",
    "teacher.weights.sha256",
    "teacher.others.*.weights.source",
    "teacher.others.*.weights.sha256",
    "student.weights.source",
    "student.weights.sha256",
)
"""Where files are; a run is bound to what is in them (see ``run.claim``)."""


def content_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of a spec's JSON data without the free fields; 64 hexadecimal digits.

    The order of the keys does not change it.
    """
    identity = _without(content, FREE_FIELDS)
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def differing_fields(old: Section, new: Section) -> list[str]:
    """Paths of the fields in which two specs differ, such as ``losses.kd.weight``."""
    return _differences(old.model_dump(mode="json"), new.model_dump(mode="json"), "")


def fixed_differences(old: Section, new: Section) -> list[str]:
    """Paths of the differing fields that may not change once a run has started.

    Of two sweeps, the fields of their bases are treated as those of jobs.
    """
    free = [*FREE_FIELDS, *LOCATIONS]
    job: Any = getattr(old, "base", old)
    if job.training.on_nonfinite != "roll_back":
        free += CHECKPOINT_TIMES
    differing = differing_fields(old, new)
    return [path for path in differing if not _is_in(path.removeprefix("base."), free)]


def _is_in(path: str, sections: Iterable[str]) -> bool:
    """Whether a field is one of ``sections`` or within one; * in these is any index of a list."""
    path = re.sub(r"\.\d+(?=\.|$)", ".*", path)
    return any(path == each or path.startswith(f"{each}.") for each in sections)


def _without(content: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """A copy of nested JSON objects without the fields at dotted paths."""
    copied = dict(content)
    for path in paths:
        name, _, rest = path.partition(".")
        if rest and isinstance(copied.get(name), Mapping):
            copied[name] = _without(copied[name], [rest])
        elif not rest:
            copied.pop(name, None)
    return copied


def _differences(old: Any, new: Any, path: str) -> list[str]:  # noqa: ANN401 - any JSON value
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(old) + [key for key in new if key not in old]
        prefix = f"{path}." if path else ""
        return [
            difference
            for key in keys
            for difference in _differences(old.get(key), new.get(key), f"{prefix}{key}")
        ]
    if _are_sections(old) and _are_sections(new) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [each for i, pair in pairs for each in _differences(*pair, f"{path}.{i}")]
    return [] if old == new else [path]


def _are_sections(value: Any) -> bool:  # noqa: ANN401 - any JSON value
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)
