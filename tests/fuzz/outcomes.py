"""What an input may lead to: it is accepted, or refused with an error that helps the user."""

import contextlib
import io
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from fuzz.guards import Guard, GuardError

from service.spec.errors import BadInputError

MAX_LINE_LENGTH = 2_000
ROOT = Path(__file__).resolve().parents[2]
FOLDERS = tuple(str(ROOT / name) for name in ("service", "data_pipeline", "jobs"))

Kind = Literal["accepted", "refused", "failed"]


class Call(NamedTuple):
    """One call of the product with an input.

    ``refusals``: the errors that its documentation states for bad input. ``names``: texts one of
    which must be in their messages, such as the name of the file.
    """

    name: str
    run: Callable[[], object]
    refusals: tuple[type[Exception], ...]
    names: tuple[str, ...]


class Outcome(NamedTuple):
    """``text``: the message of an error; of a failure, its cause too. ``place``: where it arose."""

    call: str
    kind: Kind
    text: str = ""
    place: str = ""

    @property
    def signature(self) -> str:
        """Failures with the same signature probably have the same cause."""
        return f"{self.call}, {self.text.split(':')[0]}, {self.place}"


def outcome_of(call: Call, guard: Guard) -> Outcome:
    """Run a call under the guard; what it prints is checked and dropped."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    try:
        with guard, contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            call.run()
    except call.refusals as error:
        fault = fault_of_message(error, call.names)
        if fault:
            return Outcome(call.name, "failed", f"{fault}: {_shown(error)}", _place(error))
        return Outcome(call.name, "refused", str(error))
    except (Exception, GuardError) as error:
        return Outcome(
            call.name, "failed", f"{type(error).__name__}: {_shown(error)}", _place(error)
        )
    return Outcome(call.name, "accepted")


def fault_of_message(error: Exception, names: tuple[str, ...]) -> str | None:
    """What is wrong with the message of a refusal; None if nothing is."""
    lines = str(error).split("\n")
    if isinstance(error, BadInputError):
        if lines[-1].endswith(" more; fix these first"):
            del lines[-1]
        if len(lines) != 1 + len(error.problems) or not error.problems:
            return "message with a problem that is not one line"
        if not all(all(problem) for problem in error.problems):
            return "problem without field, fault or remedy"
        texts = lines[1:]
    else:
        texts = lines
        if len(lines) != 1:
            return "message of several lines"
    text = str(error)
    if not text.strip():
        return "empty message"
    if any(len(line) > MAX_LINE_LENGTH for line in texts):
        return "message of a very long line"
    # A terminal would interpret them, and a log would break the line.
    if any(not (char.isprintable() or char == "\n") for char in text):
        return "message with characters that cannot be printed"
    if not any(name in text for name in names):
        return "message that does not name the file or field"
    return None


def _shown(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as failure:
        text = f"no message ({failure})"
    return text[:300].encode("utf-8", "backslashreplace").decode().replace("\n", " | ")


def _place(error: BaseException) -> str:
    """The innermost line of the product in the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(FOLDERS)]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).relative_to(ROOT) if own else frame.filename}:{frame.lineno}"
