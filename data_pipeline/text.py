"""Texts in messages and manifests: names that others chose, numbers of bytes, and durations."""

import math
import unicodedata

# Control characters, halves of surrogate pairs (bytes of a file name that are no UTF-8), and the
# separators of lines and paragraphs.
_NOT_IN_NAMES = ("Cc", "Cs", "Zl", "Zp")


def is_name(text: str) -> bool:
    """Whether the text is UTF-8 in one line: the name of a class in any script."""
    return text.isprintable() or not any(unicodedata.category(c) in _NOT_IN_NAMES for c in text)


def printable(text: str) -> str:
    """The text with escapes for what a terminal may not show as it is, such as newlines."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def format_bytes(num_bytes: float) -> str:
    """A readable number of bytes, such as 1.50 GB (1 GB = 10^9 bytes)."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} bytes"
    exponent = min(int(math.log10(num_bytes)) // 3, 4)
    return f"{num_bytes / 1000**exponent:.2f} {('kB', 'MB', 'GB', 'TB')[exponent - 1]}"


def format_duration(seconds: float) -> str:
    """A duration with two digits, as an estimate deserves, such as 3.2 hours."""
    for unit, unit_s in (("hours", 3600), ("minutes", 60), ("seconds", 1)):
        if (count := seconds / unit_s) >= 1:
            text = f"{count:.2g}" if count < 9.95 else f"{count:,.0f}"
            return f"{text} {unit.removesuffix('s') if text == '1' else unit}"
    return "less than a second"
