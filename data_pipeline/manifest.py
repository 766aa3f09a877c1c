"""The manifest of a .beton, FILE.beton.json: what it contains and how it was made."""

import json
from pathlib import Path
from typing import Any

from data_pipeline.beton import BetonError
from data_pipeline.files import remove_partials, write_atomically

FORMAT = 4
REQUIRED = ("fingerprint", "num_samples", "num_bytes", "classes", "num_per_class")


def manifest_path(path: Path) -> Path:
    """The path of a file's manifest."""
    return path.with_name(path.name + ".json")


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a .beton, None if it has none.

    Raises:
        BetonError: a manifest that is damaged or of another format.
    """
    location = manifest_path(path)
    try:
        manifest = json.loads(location.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BetonError(
            f"{location} is not a manifest ({error}); convert {path.name} again"
        ) from error
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or any(name not in manifest for name in REQUIRED)
    ):
        raise BetonError(
            f"{location} is not a manifest of format {FORMAT}; convert {path.name} again, or "
            "remove it"
        )
    return manifest


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of the .beton at ``path`` atomically; no other process may write it.

    Raises:
        OSError: the storage fails.
    """
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    # Of conversions that were killed.
    remove_partials(path.parent, manifest_path(path).name)
    write_atomically(manifest_path(path), text)
