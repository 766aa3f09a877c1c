"""Cost of reliability in training time, compared with the same training without it.

    python tests/benchmarks/reliability.py [--rounds N] [--json FILE]

Checkpoints: seconds of training that one costs, as a share of the ten minutes between two of them.
Consensus: two workers with and without the reduction of their flags in every step. MLflow: training
with a tracker whose server is up, slow or dead, or refuses connections, and without one.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch.multiprocessing as mp
from support.mlflow_server import Line, mlflow_server
from support.spec_contents import spec_content, write_stripes
from support.training_runs import run_alone, run_rank
from table import Ratio, add_json_option, at_most, report

from service.run.claim import claim_run_folder
from service.spec.job import JobSpec
from service.spec.loading import parse_spec
from service.tracking.tracker import Tracker
from service.training.distributed import FlagConsensus

GOAL = 1.02
NUM_SAVES = 8


def main(arguments: list[str]) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds; medians are reported")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary))
        ratios = [saving(bench, options.rounds), consensus(bench, options.rounds)]
        pin_to_core(1)
        with mlflow_server(Path(temporary)) as port:
            ratios += tracking(bench, Line(port), options.rounds)
    report(ratios, options.json)
    return 0


class Bench:
    """A dataset, and specs of runs on it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._count = 0
        write_stripes(folder / "train.beton", 1024, seed=1)
        write_stripes(folder / "val.beton", 64, seed=2)

    def content(self, **sections: Any) -> dict[str, Any]:
        """A spec under a new name."""
        self._count += 1
        return spec_content(self.folder, self.folder / "runs", name=f"r{self._count}", **sections)


def saving(bench: Bench, num_rounds: int) -> Ratio:
    """A ResNet-50 (200 MB of state) with small steps, so that little of the writing overlaps."""
    sections = {
        "student": {"model": "resnet50"},
        "training": {"global_batch_size": 16, "micro_batch_size": 16},
        "resources": {"num_workers": 1},
        "schedule": {"num_epochs": 1, "milestones": []},
    }
    costs_s = []
    for _ in range(num_rounds):
        seconds = []
        for num_steps in (64 // NUM_SAVES, 1000):
            content = bench.content(checkpoints={"every_steps": num_steps}, **sections)
            seconds.append(timed(run_alone, parse_spec(content)))
        costs_s.append((seconds[0] - seconds[1]) / (NUM_SAVES - 1))
        print(f"saving: {costs_s[-1]:.2f} s of training per checkpoint", flush=True)
    spec = parse_spec(bench.content())
    interval_s = 60 * (spec.checkpoints.every_minutes or 0)
    cost_s = statistics.median(costs_s)
    name = f"saving every {interval_s:.0f} s, {cost_s:.2f} s each / not saving"
    return at_most(name, 1 + cost_s / interval_s, GOAL)


def consensus(bench: Bench, num_rounds: int) -> Ratio:
    """Two workers, with small steps of about 15 ms."""
    ratios = []
    for _ in range(num_rounds):
        seconds = []
        for rank_function in (run_rank, run_rank_without_consensus):
            content = bench.content(schedule={"num_epochs": 20, "milestones": []})
            parse_spec(content).run_path.mkdir(parents=True)
            store = bench.folder / "store"
            seconds.append(timed(mp.spawn, rank_function, (content, 2, store), 2))
            store.unlink()
        ratios.append(seconds[0] / seconds[1])
    return at_most("consensus in every step / never", statistics.median(ratios), GOAL)


def run_rank_without_consensus(rank: int, *arguments: Any) -> None:
    """A worker that acts on its own flags alone."""

    FlagConsensus.reduce = lambda _, flags: flags  # type: ignore[method-assign]
    run_rank(rank, *arguments)


def tracking(bench: Bench, line: Line, num_rounds: int) -> list[Ratio]:
    """Training in a separate process with its own core, as in a worker; the driver's tracker is in
    this process, which shares the other core with the server.
    """
    modes: dict[str, Callable[[], None] | None] = {
        "no tracker": None,
        "up": lambda: line.set("up"),
        "up, 0.5 s late": lambda: line.set("up", delay_s=0.5),
        "dead": lambda: line.set("dead"),
        "refusing": lambda: line.set("refused"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in modes}
    with ProcessPoolExecutor(1, get_context("spawn"), pin_to_core, (0,)) as pool:
        pool.submit(run_alone, track_spec(bench, line)).result()
        for _ in range(num_rounds):
            for name, change in modes.items():
                spec = track_spec(bench, line)
                with claim_run_folder(spec):
                    tracker = None
                    if change is not None:
                        change()
                        tracker = Tracker(spec, line.url, {}, show=None)
                    seconds[name].append(pool.submit(timed, run_alone, spec).result())
                    line.set("refused")
                    if tracker is not None:
                        tracker.close("finished")
                print(f"MLflow, {name}: {seconds[name][-1]:.1f} s", flush=True)
    baseline = seconds.pop("no tracker")
    return [
        at_most(
            f"training with MLflow {name} / without",
            statistics.median(a / b for a, b in zip(measured, baseline, strict=True)),
            GOAL,
        )
        for name, measured in seconds.items()
    ]


def pin_to_core(number: int) -> None:
    """Run this process, and those that it starts, on one core."""
    os.sched_setaffinity(0, {number})


def track_spec(bench: Bench, line: Line) -> JobSpec:
    """About 20 seconds of training, with a progress line four times a second."""
    return parse_spec(
        bench.content(
            schedule={"num_epochs": 60, "milestones": []},
            evaluation={"every_epochs": 10},
            checkpoints={"every_epochs": 10},
            tracking={"uri": line.url, "log_every_steps": 16},
        )
    )


def timed(action: Callable[..., None], *arguments: Any) -> float:
    """Seconds that a call takes."""
    start_s = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
