"""What reliability costs in training time, each beside the same training without it.

    python tests/benchmarks/reliability.py [--rounds N] [--json FILE]

Checkpoints: the seconds that one takes from training, in the ten minutes between two of them.
FlagConsensus: two workers with and without their exchange in every step. MLflow: training beside a
tracker whose server answers late, not at all, or whose port is closed, against training alone.
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

import torch
import torch.multiprocessing as mp
from support.mlflow_server import Line, mlflow_server
from support.spec_contents import spec_content, write_stripes
from support.training_runs import run_alone, run_rank
from table import Ratio, show, write_json

from service.run.folder import claim_run_folder
from service.run.journal import Event
from service.spec.job import JobSpec
from service.spec.loading import parse_spec
from service.tracking.tracker import Tracker
from service.training.distributed import FlagConsensus, StepFlags

GOAL = 1.02
NUM_SAVES = 8


def main(arguments: list[str]) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds; medians are reported")
    parser.add_argument("--json", type=Path, help="file for the ratios")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary))
        ratios = [saving(bench, options.rounds), agreement(bench, options.rounds)]
        keep_to_core(1)
        with mlflow_server(Path(temporary)) as port:
            ratios += tracking(bench, Line(port), options.rounds)
    show(ratios)
    if options.json:
        write_json(options.json, ratios)
    return 0


class Bench:
    """A dataset, and runs on it under names of their own."""

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
    """A ResNet-50, whose state is 200 MB; the shortest steps it can have, so that nothing hides."""
    sections = {
        "student": {"model": "resnet50"},
        "training": {"global_batch_size": 16, "micro_batch_size": 16},
        "resources": {"num_workers": 1},
        "schedule": {"num_epochs": 1, "milestones": []},
    }
    costs_s = []
    for _ in range(num_rounds):
        seconds = [
            timed(
                run_alone, parse_spec(bench.content(checkpoints={"every_steps": steps}, **sections))
            )
            for steps in (64 // NUM_SAVES, 1000)
        ]
        costs_s.append((seconds[0] - seconds[1]) / (NUM_SAVES - 1))
        print(f"saving: {costs_s[-1]:.2f} s of training per checkpoint", flush=True)
    spec = parse_spec(bench.content())
    interval_s = 60 * (spec.checkpoints.every_minutes or 0)
    cost_s = statistics.median(costs_s)
    name = f"saving every {interval_s:.0f} s, {cost_s:.2f} s each / not saving"
    return cost(name, 1 + cost_s / interval_s)


def agreement(bench: Bench, num_rounds: int) -> Ratio:
    """Two workers, small steps of some 15 ms."""
    ratios = []
    for _ in range(num_rounds):
        seconds = []
        for rank_function in (run_rank, run_rank_without_agreement):
            content = bench.content(schedule={"num_epochs": 20, "milestones": []})
            parse_spec(content).run_path.mkdir(parents=True)
            store = bench.folder / "store"
            seconds.append(timed(mp.spawn, rank_function, (content, 2, store), 2))
            store.unlink()
        ratios.append(seconds[0] / seconds[1])
    return cost("agreeing in every step / not", statistics.median(ratios))


def run_rank_without_agreement(rank: int, *arguments: Any) -> None:
    """A worker that acts alone."""

    def keep(agreement: FlagConsensus, mine: StepFlags) -> None:
        agreement._found = torch.tensor(mine, dtype=torch.int32)

    FlagConsensus.begin = keep  # type: ignore[method-assign]
    run_rank(rank, *arguments)


def tracking(bench: Bench, line: Line, num_rounds: int) -> list[Ratio]:
    """Training in a process and on a core of its own, as a worker is; a driver's tracker in this
    one, which shares the other core with the server.
    """
    modes: dict[str, Callable[[], None] | None] = {
        "no tracker": None,
        "answering": lambda: line.set("up"),
        "answering 0.5 s late": lambda: line.set("up", delay_s=0.5),
        "dead": lambda: line.set("dead"),
        "refusing": lambda: line.set("refused"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in modes}
    with ProcessPoolExecutor(1, get_context("spawn"), keep_to_core, (0,)) as pool:
        pool.submit(run_alone, track_spec(bench, line)).result()
        for _ in range(num_rounds):
            for name, change in modes.items():
                spec = track_spec(bench, line)
                with claim_run_folder(spec):
                    tracker = None
                    if change is not None:
                        change()
                        tracker = Tracker(spec, line.url, {}, ignore)
                    seconds[name].append(pool.submit(timed, run_alone, spec).result())
                    line.set("refused")
                    if tracker is not None:
                        tracker.close("finished")
                print(f"MLflow, {name}: {seconds[name][-1]:.1f} s", flush=True)
    baseline = seconds.pop("no tracker")
    return [
        cost(
            f"training with MLflow {name} / without",
            statistics.median(a / b for a, b in zip(taken, baseline, strict=True)),
        )
        for name, taken in seconds.items()
    ]


def keep_to_core(number: int) -> None:
    """This process, and those it will start, run on one core."""
    os.sched_setaffinity(0, {number})


def track_spec(bench: Bench, line: Line) -> JobSpec:
    """Some 20 seconds with a progress line four times a second."""
    return parse_spec(
        bench.content(
            schedule={"num_epochs": 60, "milestones": []},
            evaluation={"every_epochs": 10},
            checkpoints={"every_epochs": 10},
            tracking={"uri": line.url, "log_every_steps": 16},
        )
    )


def ignore(_: Event) -> None:
    """Nobody looks at the progress."""


def timed(action: Callable[..., None], *arguments: Any) -> float:
    """Seconds that it takes."""
    start_s = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start_s


def cost(name: str, ratio: float) -> Ratio:
    """How much longer it takes."""
    return Ratio(name, round(ratio, 4), f"<= {GOAL:g}", ratio <= GOAL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
