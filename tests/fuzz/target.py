"""What is fuzzed: valid inputs, how they are changed, and the calls that get each input."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from fuzz.outcomes import Call

Mutate = Callable[[Random, bytes, Sequence[bytes]], bytes]

# Instead of the target's folder, which is another one in each process.
FOLDER_MARK = b"/folder-of-the-target"


class Target(NamedTuple):
    """One kind of files.

    ``folder``: where the calls may write. ``seeds``: valid inputs. ``mutate``: changes one of them,
    and gets all of them. ``calls``: writes an input to files of the folder and yields the calls
    that read these; each call is made before the next one is prepared.
    """

    folder: Path
    seeds: Sequence[bytes]
    mutate: Mutate
    calls: Callable[[bytes], Iterable[Call]]

    def input(self, name: str, seed: int, index: int) -> bytes:
        """Input number ``index`` of the target ``name``, to be kept: its folder is FOLDER_MARK.

        The first ones are the valid inputs; the others are functions of these, ``seed`` and number.
        """
        seeds = [data.replace(bytes(self.folder), FOLDER_MARK) for data in self.seeds]
        if index < len(seeds):
            return seeds[index]
        random = Random(f"{name}/{seed}/{index}")
        return self.mutate(random, random.choice(seeds), seeds)

    def calls_with(self, kept: bytes) -> Iterable[Call]:
        """The calls with an input that was kept."""
        return self.calls(kept.replace(FOLDER_MARK, bytes(self.folder)))
