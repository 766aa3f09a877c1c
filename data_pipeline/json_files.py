"""Reads files that anybody may have put there: regular files only, within limits, JSON checked.

Nothing here waits for another process or device, and no error repeats what is in a file.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from data_pipeline.files import NotRegularError, open_regular
from data_pipeline.text import printable

MAX_DEPTH = 50
# A list of a list takes 3 bytes of text and 100 times as much memory.
MAX_VALUES = 2_000_000
MAX_INTEGER_LENGTH = 20
MAX_PLACE_LENGTH = 200
TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"

# What only an escape such as \u0000 puts into the text of a JSON file: no path and no name has it.
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")

T = TypeVar("T")


class UnusableFileError(ValueError):
    """A file that is there and cannot be used.

    Attributes:
        path: the file.
        where: the place in it, such as a line or a field; empty for the file as a whole.
        wrong, remedy: what is wrong, and what would be right.
    """

    def __init__(self, path: Path, where: str, wrong: str, remedy: str):
        self.path, self.where, self.wrong, self.remedy = path, where, wrong, remedy
        super().__init__(f"{path}: {self.fault}; {remedy}")

    @property
    def fault(self) -> str:
        """What is wrong, and where in the file."""
        return f"{self.where} {self.wrong}" if self.where else self.wrong


class TooLargeError(UnusableFileError):
    """A file that has more bytes than its kind may have."""


def read_bounded(path: Path, limit_bytes: int, *, follow_links: bool = False) -> bytes:
    """The content of a regular file of at most ``limit_bytes``.

    Raises:
        UnusableFileError: it is no regular file; TooLargeError: it is larger.
        OSError: there is no such file, or it cannot be read.
    """
    try:
        with open_regular(path, "rb", follow_links=follow_links) as file:
            content = file.read(limit_bytes + 1)
    except NotRegularError as error:
        wrong, remedy = f"is {error.kind}", "put a regular file there"
        raise UnusableFileError(path, "", wrong, remedy) from error
    except ValueError as error:
        raise UnusableFileError(path, "", "is no path of a file", "give another path") from error
    if len(content) > limit_bytes:
        wrong = f"has more than {limit_bytes:,} bytes"
        raise TooLargeError(path, "", wrong, "give the file that was meant")
    return content


def read_json(
    path: Path,
    limit_bytes: int,
    kind: type[T],
    *,
    follow_links: bool = False,
    allow_nan: bool = False,
) -> T:
    """The JSON data of a file, whose outermost value is of ``kind``: dict, list, object for any.

    ``allow_nan``: whether numbers may be NaN and infinite.

    Raises:
        UnusableFileError: it is no regular file, too large, no JSON, or has what no file of this
            service has: see ``parse_json``.
        OSError: there is no such file, or it cannot be read.
    """
    content = read_bounded(path, limit_bytes, follow_links=follow_links)
    return parse_json(content, path, kind, allow_nan=allow_nan)


def parse_json(content: bytes, path: Path, kind: type[T], *, allow_nan: bool = False) -> T:
    """The JSON data in the content of the file ``path``, as ``read_json``.

    Raises:
        UnusableFileError: it is no UTF-8, no JSON or of another kind; is nested too deeply or has
            too many values; has a field twice, a number that is not finite or needs more than 64
            bits, a null character, or half of a surrogate pair.
    """
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_VALUES:
        wrong = f"has more than {MAX_VALUES:,} values"
        raise UnusableFileError(path, "", wrong, "give the file that was meant")
    data = _parse(content, path)
    # A string has such a character only where the text has an escape of it.
    if fault := _fault_in(data, 0, checks_text=b"\\u" in content, allow_nan=allow_nan):
        raise UnusableFileError(path, _place(fault.keys), fault.wrong, "give another one")
    if not isinstance(data, kind):
        name = "object" if kind is dict else "list"
        raise UnusableFileError(path, "$", f"is not a JSON {name}", "fix the text of the file")
    return data


def _parse(content: bytes, path: Path) -> Any:  # noqa: ANN401 - any JSON value
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for key, value in pairs:
            if key in fields:
                raise UnusableFileError(
                    path, _place([key]), "is given twice", "keep one of the two"
                )
            fields[key] = value
        return fields

    try:
        # Editors on Windows write a byte order mark.
        text = content.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=unique, parse_int=_integer)
    except UnicodeDecodeError as error:
        place = f"byte {error.start}"
        raise UnusableFileError(
            path, place, "is not UTF-8 text", "save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        wrong = f"is not JSON ({error.msg})"
        raise UnusableFileError(path, place, wrong, "fix the text there") from None
    except RecursionError:
        raise UnusableFileError(path, "$", TOO_DEEP, "give another one") from None


def _integer(text: str) -> float:
    """Infinite where it needs more than 64 bits: such a number is refused as infinite ones are."""
    if len(text) > MAX_INTEGER_LENGTH or not -(2**63) <= (value := int(text)) < 2**63:
        return math.inf
    return value


def _place(keys: Sequence[str]) -> str:
    """The dotted path of a value, in printable text of some length at most."""
    return printable(".".join(keys)[:MAX_PLACE_LENGTH]) or "$"


class _Fault(NamedTuple):
    """What is wrong with a value, and the keys that lead to it."""

    keys: tuple[str, ...]
    wrong: str


def _fault_in(
    value: Any,  # noqa: ANN401 - any JSON value
    depth: int,
    *,
    checks_text: bool,
    allow_nan: bool,
) -> _Fault | None:
    """The first fault of a value or of what is in it."""
    if isinstance(value, float):
        is_fine = allow_nan or math.isfinite(value)
        return None if is_fine else _Fault((), "is a number that is not finite, or over 64 bits")
    if isinstance(value, str):
        is_fine = not checks_text or _NOT_TEXT.search(value) is None
        return None if is_fine else _Fault((), "has a null character, or half of a surrogate pair")
    if not isinstance(value, dict | list):
        return None
    if depth == MAX_DEPTH:
        return _Fault((), TOO_DEEP)
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in entries:
        fault = None
        if isinstance(value, dict) and checks_text:
            fault = _fault_in(key, depth, checks_text=True, allow_nan=allow_nan)
        fault = fault or _fault_in(inner, depth + 1, checks_text=checks_text, allow_nan=allow_nan)
        if fault:
            return _Fault((str(key), *fault.keys), fault.wrong)
    return None
