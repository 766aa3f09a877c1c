"""The manifest of a .beton, FILE.beton.json: what it contains and how it was made."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.beton import BetonError
from data_pipeline.files import remove_partials, write_atomically
from data_pipeline.json_files import UnusableFileError, read_json

FORMAT = 4
REQUIRED = ("fingerprint", "num_samples", "num_bytes", "classes", "num_per_class")
LIMIT_BYTES = 64_000_000
UNLABELED_CLASS = "unlabeled"
"""The only class of a file whose images have no labels; other files have two or more."""

# The fingerprint becomes the name of a folder: only hexadecimal digits are safe.
_FINGERPRINT = re.compile(r"[0-9a-f]{32,}")


def manifest_path(path: Path) -> Path:
    """The path of a file's manifest."""
    return path.parent / f"{path.name}.json"


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a .beton, None if it has none.

    Raises:
        BetonError: a manifest that is damaged or of another format.
    """
    location = manifest_path(path)
    try:
        manifest = read_json(location, LIMIT_BYTES, dict, follow_links=True)
    except FileNotFoundError:
        return None
    except (OSError, UnusableFileError) as error:
        fault = error.fault if isinstance(error, UnusableFileError) else error.strerror
        raise BetonError(
            f"{location} is not a manifest ({fault}); convert {path.name} again"
        ) from error
    if manifest.get("format") != FORMAT or any(name not in manifest for name in REQUIRED):
        raise BetonError(
            f"{location} is not a manifest of format {FORMAT}; convert {path.name} again, or "
            "remove it"
        )
    if fault := manifest_fault(manifest):
        raise BetonError(f"{location} is damaged: {fault}; convert {path.name} again")
    return manifest


def manifest_fault(manifest: Mapping[str, Any]) -> str | None:
    """What is wrong with the fields that a manifest has; None if nothing is."""
    for name, (is_valid, what) in _FIELDS.items():
        if name in manifest and not is_valid(manifest[name]):
            return f"{name} is not {what}"
    counts = manifest.get("num_per_class")
    if counts is None:
        return None
    if "num_samples" in manifest and sum(counts) != manifest["num_samples"]:
        return "num_per_class does not add up to num_samples"
    if "classes" in manifest and len(counts) != len(manifest["classes"]):
        return "num_per_class does not have a number for each of classes"
    return None


def _is_fingerprint(value: object) -> bool:
    return isinstance(value, str) and _FINGERPRINT.fullmatch(value) is not None


def _is_count(value: object) -> bool:
    return _are_counts([value])


def _are_counts(value: object) -> bool:
    """A list of integers that are not negative; JSON's true and false are none."""
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


def _is_positive(value: object) -> bool:
    return _is_count(value) and value != 0


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_range(value: object) -> bool:
    """Pixels in ascending order: minimum and maximum, or minimum, median and maximum."""
    return (
        isinstance(value, list)
        and _are_counts(value)
        and len(value) in (2, 3)
        and value[0] > 0
        and sorted(value) == value
    )


def _are_pixels(value: object) -> bool:
    """Mean and std of three channels."""
    if not isinstance(value, dict):
        return False
    return all(
        isinstance(numbers := value.get(name), list)
        and len(numbers) == 3
        and all(type(each) in (int, float) and each >= 0 for each in numbers)
        for name in ("mean", "std")
    )


_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "fingerprint": (_is_fingerprint, "a digest of the content in hexadecimal digits"),
    "num_samples": (_is_positive, "a positive integer"),
    "num_bytes": (_is_positive, "a positive integer"),
    "classes": (_are_names, "a list of names"),
    "class_names": (_are_names, "a list of names"),
    "num_per_class": (_are_counts, "a list of numbers of images"),
    "height_px": (_is_range, "a minimum and a maximum"),
    "width_px": (_is_range, "a minimum and a maximum"),
    "short_side_px": (_is_range, "a minimum, a median and a maximum"),
    "pixels": (_are_pixels, "mean and std of three channels"),
    "left_out": (_are_names, "a list of texts"),
}
"""What each field of a manifest must be, and how an error says it."""


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of the .beton at ``path`` atomically; no other process may write it.

    Raises:
        OSError: the storage fails.
    """
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    # Of conversions that were killed.
    remove_partials(path.parent, manifest_path(path).name)
    write_atomically(manifest_path(path), text)
