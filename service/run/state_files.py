"""Reads the files of a run's folder, which may be damaged, or of another version of the service.

A file that decides how a run goes on is refused, with the remedy. One that the service can write
anew, or do without, is reported and counts as absent. No message repeats what is in a file.
"""

import importlib.metadata
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from data_pipeline.json_files import UnusableFileError, parse_json, read_bounded, read_json
from service.spec.errors import BadInputError, Problem

logger = logging.getLogger(__name__)

LIMIT_BYTES = 16_000_000
TEXT_LIMIT_BYTES = 10_000
MAX_FIELDS = 3

WITHOUT_OTHER_FIELDS = ConfigDict(extra="forbid")
"""Of dataclasses that are stored: a file with a field that they do not have is refused."""

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


def service_version() -> str:
    """Version of the service, which a run's tags have too; unknown where it is not installed."""
    try:
        return importlib.metadata.version("dtkd-service")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def read_state(path: Path, kind: type[T], remedy: str) -> T | None:
    """The content of a JSON file that decides how a run goes on; None if there is no such file.

    ``kind``: a dataclass, a named tuple or another type; every field must have the type that it
    has there, and no other field may be there.

    Raises:
        BadInputError: the file is damaged or of another kind; with ``remedy``.
        OSError: the storage fails.
    """
    try:
        return read_typed(path, kind)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnusableFileError as error:
        raise damaged(path, error.fault, remedy) from error


def read_if_usable(path: Path, kind: type[T], *, allow_nan: bool = False) -> T | None:
    """As ``read_state``, of a file that can be done without: None, and a warning, if damaged.

    ``allow_nan``: whether numbers may be NaN and infinite.
    """
    try:
        return read_typed(path, kind, allow_nan=allow_nan)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        logger.warning("%s cannot be read: %s", path, error.strerror)
    except UnusableFileError as error:
        logger.warning("%s is damaged and not used: %s", path, error.fault)
    return None


def read_text_if_usable(path: Path) -> str | None:
    """A line of text, as files with one value have it; None if there is none, or it is damaged.

    Raises:
        OSError: the storage fails, which says nothing about the file.
    """
    try:
        return read_bounded(path, TEXT_LIMIT_BYTES).decode().strip()
    except (FileNotFoundError, NotADirectoryError, UnusableFileError, UnicodeDecodeError):
        return None


def read_stored(path: Path, model: type[M], written_by: Callable[[], str | None]) -> M:
    """A spec that this service stored; ``written_by`` returns the version that did, if known.

    Raises:
        BadInputError: it is damaged, or of another version.
        OSError: the storage fails, or there is no such file.
    """
    try:
        content = read_json(path, LIMIT_BYTES, dict)
    except UnusableFileError as error:
        raise damaged(path, error.fault, "restore the file, or use another name") from error
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _of_another_version(path, error, written_by()) from None


def damaged(path: Path, fault: str, remedy: str) -> BadInputError:
    """The error for a damaged file of a run's folder."""
    return BadInputError(str(path), [Problem(path.name, f"is damaged: {fault}", remedy)])


def _of_another_version(
    path: Path, error: ValidationError, written_by: str | None
) -> BadInputError:
    version = service_version()
    others = f"version {written_by}" if written_by not in (None, version) else "another version"
    fields = [_place(detail) for detail in error.errors(include_url=False, include_input=False)]
    shown = ", ".join(fields[:MAX_FIELDS]) + (", ..." if len(fields) > MAX_FIELDS else "")
    wrong = f"was written by {others} of the service, or edited: {shown} is not as version "
    remedy = f"use {others} for this run, or another name for a new run"
    return BadInputError(str(path), [Problem(path.name, f"{wrong}{version} has it", remedy)])


def read_typed(path: Path, kind: type[T], *, allow_nan: bool = False) -> T:
    """The content of a JSON file as a ``kind``.

    Raises:
        UnusableFileError: it is damaged, or of another kind.
        OSError: the storage fails, or there is no such file.
    """
    content = read_bounded(path, LIMIT_BYTES)
    parse_json(content, path, object, allow_nan=allow_nan)
    try:
        # From the text: Python's lists are no tuples to pydantic, and its texts no keys.
        return TypeAdapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        raise UnusableFileError(path, _place(detail), detail["msg"].lower(), "restore it") from None


def _place(detail: Any) -> str:  # noqa: ANN401 - one of pydantic's errors
    return ".".join(map(str, detail["loc"])) or "$"
