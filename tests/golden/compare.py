"""Compare the training runs of two revisions: python tests/golden/compare.py BASE [--tolerance X].

BASE is any git revision that has tests/golden. Each revision trains its own specs with its own
code, in a checkout of its own; series of metrics and final weights must be equal bit for bit, or
within a tolerance relative to the largest value where a change of arithmetic is intended. With
--common, metrics that only one of them has are left out: those of a revision before specs named
their losses had other names, which are translated. Exit status: 0 equal, 1 different.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
SUMMARIES = ("mean", "p5", "p50", "p95")
FORMER_NAMES = {
    f"temperature/{side}_{summary}": f"dtkd/{side}_temperature_{summary}"
    for side in ("teacher", "student")
    for summary in SUMMARIES
} | {f"temperature/{name}": f"dtkd/{name}" for name in ("gap_before", "gap_after")}
Series = list[tuple[str, int, str, float]]


class Difference(NamedTuple):
    """Largest differences of a case, relative to the largest value; None where nothing compares."""

    name: str
    num_points: int
    series: float | None
    weights: float | None

    def is_within(self, tolerance: float) -> bool:
        """Whether both are there and small enough."""
        return all(d is not None and d <= tolerance for d in (self.series, self.weights))


def main(arguments: list[str]) -> int:
    """Run both revisions, compare, print a table and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="git revision to compare with")
    parser.add_argument("--tolerance", type=float, default=0.0, help="0: bit for bit (the default)")
    parser.add_argument("--common", action="store_true", help="only metrics that both have")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        work = Path(folder)
        checkout = work / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(checkout), options.base], check=True)
        try:
            build_native_library(checkout)
            for name, root in (("base", checkout), ("now", ROOT)):
                print(f"training with {name}: {root}", flush=True)
                script = root / "tests" / "golden" / "runs.py"
                # Each starts a cluster of its own, whatever runs on this machine.
                environment = {**os.environ, "PYTHONPATH": str(root), "RAY_ADDRESS": "local"}
                command = [sys.executable, str(script), str(work / name)]
                subprocess.run(command, cwd=root, env=environment, check=True)
        finally:
            subprocess.run([*git, "remove", "--force", str(checkout)], check=True)
        differences = compare(work / "base", work / "now", only_common=options.common)
    return report(differences, options.base, options.tolerance)


def build_native_library(checkout: Path) -> None:
    """Compile the checkout's own inner loops."""
    command = [sys.executable, "-c", "from setuptools import setup; setup()", "build_ext", "-i"]
    subprocess.run(command, cwd=checkout, check=True, stdout=subprocess.DEVNULL)


def compare(base: Path, now: Path, *, only_common: bool) -> list[Difference]:
    """The differences of each case that either revision has."""
    names = sorted({path.name for folder in (base, now) for path in folder.iterdir()})
    return [compare_case(name, base / name, now / name, only_common) for name in names]


def common(old: Series, new: Series) -> tuple[Series, Series]:
    """The points of metrics that both have, under their newer names, in the order of those."""
    old = [(kind, step, FORMER_NAMES.get(name, name), value) for kind, step, name, value in old]
    both = {name for _, _, name, _ in old} & {name for _, _, name, _ in new}
    # Within an event, the points are sorted by name.
    return (
        sorted((point for point in old if point[2] in both), key=lambda point: point[:3]),
        sorted((point for point in new if point[2] in both), key=lambda point: point[:3]),
    )


def compare_case(name: str, base: Path, now: Path, only_common: bool) -> Difference:
    """The differences of one case."""
    if not (base.exists() and now.exists()):
        return Difference(name, 0, None, None)
    old, new = (
        [tuple(point) for point in json.loads((path / "series.json").read_text())]
        for path in (base, now)
    )
    if only_common:
        old, new = common(old, new)
    series = None
    if new and [point[:3] for point in old] == [point[:3] for point in new]:
        series = largest_difference([p[3] for p in old], [p[3] for p in new])
    ours, theirs = (load_file(path / "weights.safetensors") for path in (base, now))
    weights = None
    if ours.keys() == theirs.keys():
        weights = max(largest_difference(ours[key], theirs[key]) for key in ours)
    return Difference(name, len(new), series, weights)


def largest_difference(base: object, now: object) -> float:
    """Largest absolute difference as a share of the largest absolute value."""
    old, new = np.asarray(base, np.float64), np.asarray(now, np.float64)
    if np.array_equal(old, new, equal_nan=True):
        return 0.0
    return float(np.abs(old - new).max() / np.abs(old).max())


def report(differences: list[Difference], base: str, tolerance: float) -> int:
    """Print the table; the exit status."""
    print(f"\n{'case':<22}{'points':>8}{'series':>12}{'weights':>12}")
    for found in differences:
        cells = [
            "no match" if value is None else "equal" if value == 0 else f"{value:.1e}"
            for value in (found.series, found.weights)
        ]
        print(f"{found.name:<22}{found.num_points:>8}{cells[0]:>12}{cells[1]:>12}")
    num_different = sum(not found.is_within(tolerance) for found in differences)
    kind = "bit for bit" if tolerance == 0 else f"within {tolerance:g}"
    print(f"{len(differences) - num_different} of {len(differences)} equal to {base}, {kind}")
    return 1 if num_different or not differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
