"""Text of a run as Markdown that MLflow's UI shows: names and paths are escaped."""

import re
from collections.abc import Iterable

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!$&])")


def escaped(text: str) -> str:
    """The text in one line, as it is: nothing in it is Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def table(heading: str, rows: Iterable[tuple[str, str]]) -> str:
    """A table of labels and texts under a heading; texts are escaped."""
    lines = [f"| {escaped(heading)} | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {escaped(key)} | {escaped(text)} |" for key, text in rows)])


def code_block(text: str, language: str = "") -> str:
    """A block of code; the fence is longer than any in the text."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def limited(text: str, max_length: int) -> str:
    """The text with as many whole lines as fit."""
    if len(text) <= max_length:
        return text
    return text[:max_length].rpartition("\n")[0]
