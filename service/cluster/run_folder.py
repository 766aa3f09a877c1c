"""The run's folder: whose it is, whether it is done, and what it may not become."""

import json
from pathlib import Path
from typing import Any

from service.problems import BadInputError, Problem
from service.spec import JobSpec, differing_fields

SPEC_NAME = "spec.json"
RESULT_NAME = "result.json"


def claim_run_folder(spec: JobSpec) -> None:
    """Make the folder for ``spec``, or find it made for an equal one.

    Ray resumes whatever it finds under a name, so a changed spec must not get there.

    Raises:
        BadInputError: the folder belongs to another spec, naming each field that differs, or
            cannot be written.
    """
    path = spec.run_path / SPEC_NAME
    try:
        spec.run_path.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, spec.model_dump_json(indent=1) + "\n")
            return
        old = JobSpec.model_validate_json(path.read_text())
    except OSError as error:
        problem = Problem(
            "checkpoints.storage_path",
            f"{spec.run_path}: {error.strerror}",
            "give a writable folder",
        )
        raise BadInputError("spec", [problem]) from error
    differences = differing_fields(old, spec)
    if differences:
        remedy = f"take another name, or restore the field as {path} has it"
        raise BadInputError(
            "spec",
            [
                Problem(field, f"differs from the run {spec.name!r} that exists already", remedy)
                for field in differences
            ],
        )


def read_result(run_path: Path) -> dict[str, Any] | None:
    """What a finished run came to; None while it is not finished."""
    path = run_path / RESULT_NAME
    return json.loads(path.read_text()) if path.exists() else None


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is never seen half-written."""
    partial_path = path.with_name(path.name + ".partial")
    partial_path.write_text(text)
    partial_path.replace(path)
