"""Makes random small changes to the code, and lists those that the unit tests do not notice.

python tests/mutants/run.py [--count 150] [--seed 0] [--jobs 2] [--file service/plan.py]

Cosmic Ray changes an operator, a comparison, a constant or a condition, in a copy of the tree; the
unit tests of the file's subject must fail then. Exit status 1 if too few do.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code, use_mutation

sys.path.insert(0, str(Path(__file__).parents[1]))
from mutants.subjects import EQUIVALENT, SUBJECTS

ROOT = Path(__file__).parents[2]
KINDS = ("Replace", "NumberReplacer", "AddNot", "ZeroIteration")
UNWANTED = ("Bit", "Shift", "_Is")
"""What any test would notice: bits of floats, and identity of numbers."""
EQUALITY = re.compile(r"ComparisonOperator_(Eq|NotEq)_(Lt|LtE|Gt|GtE)$")
"""Order in place of equality, which is no change where a text is one of a few."""
GOAL = 0.85
TIMEOUT_FACTOR, MIN_TIMEOUT_S = 4, 60


class Mutant(NamedTuple):
    """One change: the n-th place in a file where an operator of Cosmic Ray applies."""

    path: str
    operator: str
    occurrence: int
    line: int


class Result(NamedTuple):
    """Whether the tests noticed a change, and the changed line."""

    mutant: Mutant
    is_noticed: bool
    change: str


def all_mutants(path: str) -> Iterator[Mutant]:
    """Every change of a file."""
    tree, code = get_ast_from_path(ROOT / path), (ROOT / path).read_text()
    lines = code.splitlines()
    for name in sorted(cosmic_ray.plugins.operator_names()):
        short = name.rpartition("/")[2]
        if not short.startswith(KINDS) or any(part in short for part in UNWANTED):
            continue
        if EQUALITY.search(short):
            continue
        operator = cosmic_ray.plugins.get_operator(name)()
        places = (place for node in ast_nodes(tree) for place in operator.mutation_positions(node))
        for occurrence, ((line, _), _) in enumerate(places):
            is_equivalent = any(text in lines[line - 1] for text in EQUIVALENT)
            if not is_equivalent and is_code(mutate_code(code, operator, occurrence)):
                yield Mutant(path, name, occurrence, line)


def is_code(text: str | None) -> bool:
    """Whether a changed file is Python: Cosmic Ray takes any star for a product."""
    try:
        compile(text or "?", "changed", "exec")
    except SyntaxError:
        return False
    return True


def sample(paths: list[str], count: int, seed: int) -> list[Mutant]:
    """Random changes: first a place, then one of its operators, so that no place weighs more."""
    places: dict[tuple[str, int], list[Mutant]] = {}
    for path in paths:
        for mutant in all_mutants(path):
            places.setdefault((path, mutant.line), []).append(mutant)
    chooser = random.Random(seed)
    chosen = chooser.sample(sorted(places), min(count, len(places)))
    return [chooser.choice(places[place]) for place in chosen]


def copy_tree(folder: Path) -> Path:
    """A copy of the tracked files, with what is compiled."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "service", "data_pipeline", "jobs", "deploy", "tests", "*.toml"],
        **{"cwd": ROOT, "check": True, "capture_output": True, "text": True},
    ).stdout
    compiled = (ROOT / "data_pipeline/native").glob("*.so")
    for name in [*listed.split("\0")[:-1], *(str(path.relative_to(ROOT)) for path in compiled)]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def passes(tree: Path, path: str, timeout_s: float | None = None) -> bool:
    """Whether the unit tests of a file pass in a tree; not if they take too long."""
    tests = [str(Path("tests/unit") / test) for test in SUBJECTS[path]]
    options = ["-x", "-q", "-p", "no:cacheprovider", "--basetemp", str(tree / "tmp")]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return not subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            **{"cwd": tree, "env": environment, "capture_output": True, "timeout": timeout_s},
        ).returncode
    except subprocess.TimeoutExpired:
        return False


def changed_line(before: str, after: str) -> str:
    """The first line that differs, as it was and as it is."""
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    return next((f"{a.strip()}  ->  {b.strip()}" for a, b in pairs if a != b), "")


def try_mutant(mutant: Mutant, tree: Path, timeout_s: float) -> Result:
    """Change a file of a tree, run its tests, and restore it."""
    operator = cosmic_ray.plugins.get_operator(mutant.operator)()
    with use_mutation(tree / mutant.path, operator, mutant.occurrence) as (before, after):
        is_noticed = not passes(tree, mutant.path, timeout_s)
    return Result(mutant, is_noticed, changed_line(before, after))


def run(mutants: list[Mutant], num_jobs: int) -> Iterator[Result]:
    """The results, as they come."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(num_jobs) as pool:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(num_jobs):
            trees.put(copy_tree(Path(folder) / str(number)))
        timeouts_s = {path: _timeout_s(trees, path) for path in sorted({m.path for m in mutants})}

        def try_in_a_free_tree(mutant: Mutant) -> Result:
            tree = trees.get()
            try:
                return try_mutant(mutant, tree, timeouts_s[mutant.path])
            finally:
                trees.put(tree)

        yield from pool.map(try_in_a_free_tree, mutants)


def _timeout_s(trees: "SimpleQueue[Path]", path: str) -> float:
    tree, start_s = trees.get(), time.monotonic()
    if not passes(tree, path):
        sys.exit(f"the tests of {path} fail without a change")
    trees.put(tree)
    return MIN_TIMEOUT_S + TIMEOUT_FACTOR * (time.monotonic() - start_s)


def main() -> int:
    """Print what survives."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=150, choices=range(1, 10_000), metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--file", choices=SUBJECTS, action="append")
    options = parser.parse_args()
    mutants = sample(options.file or list(SUBJECTS), options.count, options.seed)
    num_noticed = 0
    for number, result in enumerate(run(mutants, options.jobs), start=1):
        num_noticed += result.is_noticed
        if not result.is_noticed:
            place = f"{result.mutant.path}:{result.mutant.line}"
            print(f"survived: {place}  {result.change}", flush=True)
        if number % 10 == 0:
            print(f"{number} of {len(mutants)}, {num_noticed} noticed", flush=True)
    share = num_noticed / len(mutants)
    print(f"{num_noticed} of {len(mutants)} noticed, {share:.0%}; goal {GOAL:.0%}")
    return int(num_noticed < GOAL * len(mutants))


if __name__ == "__main__":
    sys.exit(main())
