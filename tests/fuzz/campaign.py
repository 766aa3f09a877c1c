"""Runs inputs of a target, and counts what becomes of them."""

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fuzz.guards import Guard
from fuzz.outcomes import Kind, Outcome, outcome_of
from fuzz.target import Target


class Result(NamedTuple):
    """What became of one input: failed if a call has, or else refused if a call has.

    ``failures``: outcomes of calls that failed. ``peak_bytes``: memory of the process.
    """

    kind: Kind
    seconds: float
    peak_bytes: int
    failures: list[Outcome]


def run_input(target: Target, data: bytes, guard: Guard) -> Result:
    """Make all calls of a target with one input."""
    start_s = time.perf_counter()
    outcomes = [outcome_of(call, guard) for call in target.calls_with(data)]
    seconds = time.perf_counter() - start_s
    kinds: tuple[Kind, ...] = ("failed", "refused", "accepted")
    found = {outcome.kind for outcome in outcomes}
    kind = next((kind for kind in kinds if kind in found), "refused")
    failures = [outcome for outcome in outcomes if outcome.kind == "failed"]
    return Result(kind, seconds, guard.peak_bytes, failures)


@dataclass
class Failures:
    """Failures of one kind: their number, and the first of them, whose input is at ``path``."""

    num: int
    path: Path
    text: str


@dataclass
class Summary:
    """What became of the inputs of a target; ``failures`` by their kind.

    The first input of each kind of failure is kept in the folder ``kept_path``.
    """

    target: str
    kept_path: Path
    num_by_kind: dict[Kind, int] = field(
        default_factory=lambda: {"accepted": 0, "refused": 0, "failed": 0}
    )
    slowest_s: float = 0.0
    total_s: float = 0.0
    peak_bytes: int = 0
    failures: dict[str, Failures] = field(default_factory=dict)

    @property
    def num_inputs(self) -> int:
        """Number of inputs that were run."""
        return sum(self.num_by_kind.values())

    def add(self, data: bytes, result: Result) -> None:
        """Count an input."""
        self.num_by_kind[result.kind] += 1
        self.total_s += result.seconds
        self.slowest_s = max(self.slowest_s, result.seconds)
        self.peak_bytes = max(self.peak_bytes, result.peak_bytes)
        for failure in result.failures:
            if failure.signature in self.failures:
                self.failures[failure.signature].num += 1
            else:
                path = self._kept(data)
                self.failures[failure.signature] = Failures(1, path, failure.text)

    def _kept(self, data: bytes) -> Path:
        self.kept_path.mkdir(parents=True, exist_ok=True)
        path = self.kept_path / f"{self.target}-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        return path


def table(summaries: list[Summary]) -> str:
    """A row per target, and below it each kind of failure with the file of its first input."""
    heads = ("target", "inputs", "accepted", "refused", "slowest_s", "peak memory", "failures")
    lines = ["{:12} {:>8} {:>9} {:>8} {:>10} {:>12} {:>9}".format(*heads)]
    for one in summaries:
        lines.append(
            f"{one.target:12} {one.num_inputs:8,} {one.num_by_kind['accepted']:9,} "
            f"{one.num_by_kind['refused']:8,} {one.slowest_s:10.2f} "
            f"{one.peak_bytes / 1e6:9,.0f} MB {one.num_by_kind['failed']:9,}"
        )
    for one in summaries:
        for signature, found in one.failures.items():
            lines.append(f"\n{one.target}: {found.num} times {signature}")
            lines += [f"  {found.text}", f"  --replay {found.path}"]
    return "\n".join(lines)
