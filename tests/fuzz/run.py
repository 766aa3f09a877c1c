"""Fuzz the readers of all files that others may have written.

    python tests/fuzz/run.py --inputs 20000
    python tests/fuzz/run.py --minutes 10 --target beton
    python tests/fuzz/run.py --replay FILE

Prints a row per target, and below it each kind of failure with the file of its first input, which
--replay runs again. Exit status: 0 no failure, 1 failures.
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Instead of this folder, whose modules are those of the package fuzz.
sys.path[0:1] = [str(ROOT), str(ROOT / "tests")]

from fuzz.campaign import run_input, table  # noqa: E402
from fuzz.guards import Guard  # noqa: E402
from fuzz.processes import Plan, run_plan, target_folder  # noqa: E402
from fuzz.targets import TARGETS  # noqa: E402

NUM_INPUTS = 2_000


def main(arguments: list[str]) -> int:
    """Run and return the exit status."""
    options = _options(arguments)
    if options.replay is not None:
        return replay(options.replay)
    names = options.target or list(TARGETS)
    num_inputs = options.inputs
    if options.minutes is None and num_inputs is None:
        num_inputs = NUM_INPUTS
    summaries = []
    for name in names:
        seconds = None if options.minutes is None else 60 * options.minutes / len(names)
        end_s = None if seconds is None else time.monotonic() + seconds
        summary = run_plan(Plan(name, options.seed, num_inputs, end_s), options.failures)
        summaries.append(summary)
        print(f"{name}: {summary.num_inputs:,} inputs in {summary.total_s:.0f} s", flush=True)
    print(table(summaries))
    return int(any(summary.failures for summary in summaries))


def replay(path: Path) -> int:
    """Run an input that was kept; its target is in its name."""
    name = path.name.split("-")[0]
    with target_folder() as folder:
        result = run_input(TARGETS[name](folder), path.read_bytes(), Guard(folder))
    print(f"{name}: {result.kind}, {result.seconds:.2f} s")
    for failure in result.failures:
        print(f"{failure.call} at {failure.place or 'no line of the product'}\n  {failure.text}")
    return int(result.kind == "failed")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", nargs="+", choices=TARGETS, help="all by default")
    parser.add_argument("--inputs", type=int, metavar="N", help=f"per target; {NUM_INPUTS:,}")
    parser.add_argument("--minutes", type=float, metavar="M", help="for all targets together")
    parser.add_argument("--seed", type=int, default=1, help="another one gives other inputs")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="an input that has failed")
    parser.add_argument(
        "--failures", type=Path, default=ROOT / "build" / "fuzz" / "failures", metavar="FOLDER",
        help="where inputs that fail are written (build/fuzz/failures)",
    )  # fmt: skip
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
