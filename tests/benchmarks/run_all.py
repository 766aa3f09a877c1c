"""Run the benchmarks one after the other, and write their results and the machine to a file.

    python tests/benchmarks/run_all.py [--only NAME ...] [--out FILE]

A benchmark that fails does not stop the others. Exit status: 0 all of them ran, 1 one has failed.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from table import Ratio, read_json, show

from service.tracking.source_tags import git_revision

FOLDER = Path(__file__).parent
# Those that need no arguments; sweep_hosts.py needs the spec of a sweep.
BENCHMARKS = ("data", "loss", "losses", "cache", "step", "startup", "reliability", "sweep", "chaos")
PACKAGES = ("torch", "torchvision", "ray", "ffcv", "mlflow", "numba", "numpy")


class BenchmarkResult(NamedTuple):
    """What one benchmark measured; its exit status is not 0 if it failed."""

    exit_status: int
    duration_s: float
    ratios: list[Ratio]


def main(arguments: list[str]) -> int:
    """Run the benchmarks, print one table and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", default=Path("bench.json"), help="default: bench.json"
    )
    options = parser.parse_args(arguments)
    content = describe_machine()
    results = {name: run_benchmark(name) for name in options.only or BENCHMARKS}
    content["benchmarks"] = {
        name: {
            "exit_status": result.exit_status,
            "duration_s": round(result.duration_s, 1),
            "results": [ratio._asdict() for ratio in result.ratios],
        }
        for name, result in results.items()
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    show(
        [
            ratio._replace(name=f"{name}: {ratio.name}")
            for name, result in results.items()
            for ratio in result.ratios
        ]
    )
    print(f"\nwritten to {options.out}")
    failed = {name: result for name, result in results.items() if result.exit_status != 0}
    for name, result in failed.items():
        print(f"{name} failed with exit status {result.exit_status}")
    return 1 if failed else 0


def run_benchmark(name: str) -> BenchmarkResult:
    """Run one benchmark in a subprocess, whose output is printed here."""
    print(f"=== {name}", flush=True)
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        command = [sys.executable, str(FOLDER / f"{name}.py"), "--json", str(path)]
        done = subprocess.run(command, check=False)
        return BenchmarkResult(done.returncode, time.monotonic() - start_s, read_json(path))


def describe_machine() -> dict[str, Any]:
    """What measurements depend on: hardware, versions of packages and code, and the date."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_revision": git_revision(),
        "machine": {
            "cpu": cpu_model(),
            "num_cores": len(os.sched_getaffinity(0)),
            "memory_bytes": psutil.virtual_memory().total,
            "gpus": gpus,
            "kernel": platform.release(),
        },
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def cpu_model() -> str:
    """The processor's name as Linux reports it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
