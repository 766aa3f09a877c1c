"""Files of a source that are not converted, counted by kind: none is left out silently."""

import logging
from collections import Counter
from collections.abc import Container
from pathlib import Path, PurePath
from typing import NamedTuple

from data_pipeline.text import printable

logger = logging.getLogger(__name__)

MAX_KINDS = 10
# What operating systems and file servers leave in folders.
JUNK_NAMES = {
    *("__macosx", "lost+found", "@eadir", "#recycle", "#snapshot", "$recycle.bin"),
    *("system volume information", "thumbs.db", "desktop.ini"),
}


class _Kind(NamedTuple):
    """How a kind is named after the number 1 and after others."""

    one: str
    many: str


_JUNK = _Kind("hidden or system file", "hidden or system files")
_FOLDER = _Kind("folder", "folders")
_LINK = _Kind("link to a folder", "links to folders")


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden, or left by an operating system or a file server."""
    return name.startswith(".") or name.lower() in JUNK_NAMES


def log_others(folder: Path, taken: Container[str]) -> None:
    """Log how many files and folders a folder has besides those that are taken."""
    skipped = Skipped()
    skipped.add_others(folder, taken)
    skipped.log(folder)


class Skipped:
    """Counts files and folders that have no image of a class."""

    def __init__(self) -> None:
        self._counts: Counter[_Kind] = Counter()

    def add(self, name: str) -> None:
        """Count a file by its suffix, or as one that a system left."""
        suffix = PurePath(name).suffix.lower()
        if is_junk(name):
            self._counts[_JUNK] += 1
        elif suffix:
            self._counts[_Kind(f"{suffix} file", f"{suffix} files")] += 1
        else:
            self._counts[_Kind("file without a suffix", "files without a suffix")] += 1

    def add_junk(self) -> None:
        """Count a file in a hidden folder or one that a system left."""
        self._counts[_JUNK] += 1

    def add_link(self) -> None:
        """Count a link to a folder."""
        self._counts[_LINK] += 1

    def add_others(self, folder: Path, taken: Container[str]) -> None:
        """Count what is in a folder, except for the names that are taken."""
        for entry in folder.iterdir():
            if entry.name in taken:
                continue
            if entry.is_dir() and not is_junk(entry.name):
                self._counts[_FOLDER] += 1
            else:
                self.add(entry.name)

    def log(self, path: Path) -> None:
        """Log the counts for the source at ``path``, if there are any."""
        if not self._counts:
            return
        counts = sorted(self._counts.items(), key=lambda entry: (-entry[1], entry[0]))
        kinds = [
            f"{count:,} {kind.one if count == 1 else kind.many}"
            for kind, count in counts[:MAX_KINDS]
        ]
        num_others = sum(count for _, count in counts[MAX_KINDS:])
        if num_others:
            kinds.append(f"{num_others:,} others")
        logger.info("%s", printable(f"{path}: skipped {', '.join(kinds)}"))
