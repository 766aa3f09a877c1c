"""Files of a source that are not converted, counted by kind: none is left out silently."""

import logging
from collections import Counter
from collections.abc import Container
from pathlib import Path, PurePath

from data_pipeline.sources.levels import is_junk
from data_pipeline.text import printable

logger = logging.getLogger(__name__)

MAX_KINDS = 10


class Skipped:
    """Counts files that are no images of a class."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """Count a file that is no image, by its suffix."""
        suffix = PurePath(name).suffix.lower()
        self._counts[f"{suffix} FILES" if suffix else "FILES without a suffix"] += 1

    def add_junk(self) -> None:
        """Count a file or folder that is hidden, or that a system left."""
        self._counts["hidden or system FILES"] += 1

    def add_others(self, folder: Path, taken: Container[str]) -> None:
        """Count what is in a folder, except for the names that are taken."""
        for name in (entry.name for entry in folder.iterdir()):
            if is_junk(name):
                self.add_junk()
            elif name not in taken:
                self.add(name)

    def log(self, path: Path) -> None:
        """Log the counts for the source at ``path``, if there are any."""
        if self._counts:
            ordered = sorted(self._counts.items(), key=lambda entry: (-entry[1], entry[0]))
            kinds = [
                f"{count:,} {kind.replace('FILES', 'file' if count == 1 else 'files')}"
                for kind, count in ordered[:MAX_KINDS]
            ]
            num_others = sum(count for _, count in ordered[MAX_KINDS:])
            if num_others:
                kinds.append(f"{num_others:,} others")
            logger.info("%s", printable(f"{path}: skipped {', '.join(kinds)}"))
