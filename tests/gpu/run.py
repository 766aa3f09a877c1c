"""What only a GPU can show: that it computes the same, never waits, and how fast.

    python tests/gpu/run.py [--small] [--only SECTION ...] [--limit-s SECONDS] [--out FILE]

It needs one GPU and neither Ray nor MLflow, builds the native libraries if they are not there, and
prints one table within --limit-s, 9 minutes by default; sections that there is no time for are
named. A section that fails is a row of the table and does not stop the others. --small runs all of
it with small networks and few images, on the CPU where there is no GPU; its figures mean
nothing. Exit status: 0 every bar was met, 1 not.
"""

import argparse
import math
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# What cuBLAS needs to be deterministic, and reads when it is used first.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import torch
from table import Ratio, report, write_json

from gpu.bench import Bench, build_native_libraries, device_name
from gpu.checks import equal_losses, equal_resume, no_synchronization
from gpu.loss_speed import loss_speed
from gpu.step_speed import compiled_steps, decoding, eager_steps, profiled, teacher_stream


class Section(NamedTuple):
    """A part of the command: rows come one by one; it is ended after ``limit_s`` seconds."""

    rows: Callable[[Bench], Iterator[Ratio]]
    limit_s: int


SECTIONS = {
    "losses": Section(equal_losses, 60),
    "synchronization": Section(no_synchronization, 120),
    "eager": Section(eager_steps, 150),
    "loss-speed": Section(loss_speed, 60),
    "resume": Section(equal_resume, 90),
    "decoding": Section(decoding, 60),
    "profile": Section(profiled, 60),
    "stream": Section(teacher_stream, 40),
    "compiled": Section(compiled_steps, 240),
}
FOREIGN = ("ray", "mlflow", "plotly", "ffcv")


def main(arguments: list[str]) -> int:
    """Run the sections, print one table and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="few and small images")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION")
    parser.add_argument("--limit-s", type=int, default=540, help="seconds for all of it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the measurements to FILE")
    options = parser.parse_args(arguments)
    end_s = time.monotonic() + options.limit_s
    if not options.small and not torch.cuda.is_available():
        parser.error("there is no GPU; --small runs on the CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{device_name(device)}, torch {torch.__version__}", flush=True)
    build_native_libraries(Path(__file__).parents[2])
    rows: list[Ratio] = []
    signal.signal(signal.SIGALRM, _raise_timeout)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), device, is_small=options.small)
        for name in options.only:
            rows += _rows_of(name, bench, end_s)
            if options.out is not None:
                write_json(rows, options.out)
    found = sorted(set(FOREIGN) & set(sys.modules))
    rows.append(Ratio(f"imported of {', '.join(FOREIGN)}", len(found), "= 0", not found))
    print(f"\n{device_name(device)}")
    report(rows, options.out)
    return 0 if all(row.met in (True, None) for row in rows) else 1


def _rows_of(name: str, bench: Bench, end_s: float) -> list[Ratio]:
    """The rows of a section; one that failed is the last of them."""
    section, start_s, rows = SECTIONS[name], time.monotonic(), []
    limit_s = min(section.limit_s, int(end_s - start_s))
    if limit_s < 1:
        return [Ratio(f"{name}: no time left", math.nan, "-", None)]
    signal.alarm(limit_s)
    try:
        for row in section.rows(bench):
            rows.append(row)
            print(f"{time.monotonic() - start_s:5.0f} s  {name}: {row}", flush=True)
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}".splitlines()[0][:60]
        rows.append(Ratio(f"{name}: {text}", math.nan, "runs", met=False))
    finally:
        signal.alarm(0)
        bench.release()
    return rows


def _raise_timeout(*_: object) -> None:
    raise TimeoutError("the section took too long")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
