"""Millions of names in little memory, quickly pickled."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Names:
    """Strings in one text; ``ends`` are their ends in it, [N]."""

    text: bytes
    ends: NDArray[np.int64]

    @staticmethod
    def of(names: Iterable[str]) -> "Names":
        """Pack the names; file names that are not valid UTF-8 are kept as they are."""
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return Names(b"".join(encoded), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        end = int(self.ends[index])
        start = int(self.ends[index - 1]) if index else 0
        return self.text[start:end].decode("utf-8", "surrogateescape")
