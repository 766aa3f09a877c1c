"""Faults in real jobs on two hosts, and what came of them; needs root, for network namespaces.

    python tests/benchmarks/chaos.py                                # every fault once
    python tests/benchmarks/chaos.py --fault "node vanishes" --times 3
    python tests/benchmarks/chaos.py --minutes 15 --seed 0          # random ones, several per job

Each job trains 24 steps on two workers, a checkpoint every 2 steps. Afterwards its weights must be,
bit for bit, those of a run that was left alone, its series of metrics the same, and nothing may be
left: no worker, no placement group, no half-written file. --json FILE writes the shares of jobs of
which that was true.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "cluster"))

from fault_runs import NUM_STEPS, FaultRun, Workload
from faults import FAULTS, finish
from hosts import can_make_hosts
from ray_cluster import Cluster
from table import Ratio, write_json

STEP = 11
# Ends are noticed in these, and workers start again.
INJECTED = ("kill", "stop", "error", "term")
MAX_INJECTED = 3


class Outcome(NamedTuple):
    """One job: seconds to notice its fault and to train again, and what was lost by it."""

    fault: str
    how: str
    noticed_s: float
    training_s: float
    losses: list[str]


def main(arguments: list[str]) -> int:
    """Break things, print what came of it, and return 1 if anything was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fault", choices=FAULTS, help="this one only")
    parser.add_argument("--times", type=int, default=1, help="how often each")
    parser.add_argument("--minutes", type=float, help="random faults for so long")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random faults")
    parser.add_argument("--json", type=Path, help="file for the shares")
    options = parser.parse_args(arguments)
    if not can_make_hosts():
        raise SystemExit("network namespaces need root and iproute2")
    with tempfile.TemporaryDirectory() as temporary:
        workload = Workload(Path(temporary) / "work")
        with Cluster(Path(temporary) / "cluster") as cluster:
            if options.minutes:
                outcomes = soak(cluster, workload, options.minutes, options.seed)
            else:
                names = [options.fault] if options.fault else list(FAULTS)
                outcomes = [
                    one(cluster, workload, name, STEP)
                    for name in names
                    for _ in range(options.times)
                ]
    ratios = show(outcomes)
    if options.json:
        write_json(options.json, ratios)
    return 0 if all(ratio.met for ratio in ratios) else 1


def one(cluster: Cluster, workload: Workload, name: str, step: int) -> Outcome:
    """Let one fault happen."""
    fault = FAULTS[name]
    run, fault_time = fault.happen(cluster, workload, step)
    times = run.times(fault_time)
    return told(Outcome(name, fault.how, *times, losses_of(cluster, run)))


def several(cluster: Cluster, workload: Workload, dice: random.Random) -> Outcome:
    """Let up to three things happen to the workers of one job, and the driver killed among them."""
    count = dice.randint(2, MAX_INJECTED)
    steps = sorted(dice.sample(range(1, NUM_STEPS), count))
    faults = [(dice.randint(0, 1), step, dice.choice(INJECTED)) for step in steps]
    run = FaultRun(cluster, workload, "several", *faults)
    run.start()
    if dice.random() < 0.5:
        run.wait_for_fault(dice.randrange(count))
        time.sleep(dice.uniform(0, 20))
        run.kill_driver()
        run.start()
    finish(run)
    how = ", ".join(f"{kind} rank {rank} step {step}" for rank, step, kind in faults)
    return told(Outcome("several", how, float("nan"), float("nan"), losses_of(cluster, run)))


def soak(cluster: Cluster, workload: Workload, minutes: float, seed: int) -> list[Outcome]:
    """Random faults until the time is up."""
    dice = random.Random(seed)
    deadline_s = time.monotonic() + 60 * minutes
    outcomes = []
    while time.monotonic() < deadline_s:
        if dice.random() < 0.5:
            outcomes.append(several(cluster, workload, dice))
        else:
            name = dice.choice(list(FAULTS))
            outcomes.append(one(cluster, workload, name, dice.randint(2, NUM_STEPS - 3)))
    return outcomes


def losses_of(cluster: Cluster, run: FaultRun) -> list[str]:
    """What the run lost, and what it left behind."""
    left = cluster.leftovers()
    return [*run.losses(), *([f"left: {left}"] if left else [])]


def told(outcome: Outcome) -> Outcome:
    """The outcome, after it was printed."""
    losses = "; ".join(outcome.losses) or "nothing"
    print(f"{outcome.fault} ({outcome.how}): lost {losses}", flush=True)
    return outcome


def show(outcomes: list[Outcome]) -> list[Ratio]:
    """Print the table; the share of jobs for each fault that lost nothing."""
    width = max(len(outcome.fault) for outcome in outcomes)
    print(f"\n{'fault':<{width}}{'times':>7}{'noticed s':>11}{'trains s':>10}  lost")
    ratios = []
    for name in dict.fromkeys(outcome.fault for outcome in outcomes):
        these = [outcome for outcome in outcomes if outcome.fault == name]
        noticed, training = (
            statistics.median(column)
            for column in zip(*((o.noticed_s, o.training_s) for o in these), strict=True)
        )
        lost = "; ".join(loss for outcome in these for loss in outcome.losses) or "nothing"
        print(f"{name:<{width}}{len(these):>7}{noticed:>11.1f}{training:>10.1f}  {lost}")
        share = sum(not outcome.losses for outcome in these) / len(these)
        ratios.append(Ratio(name, share, "= 1", share == 1))
    return ratios


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
