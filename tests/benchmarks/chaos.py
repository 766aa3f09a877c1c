"""Faults in jobs on two hosts, and their consequences; needs root, for network namespaces.

    python tests/benchmarks/chaos.py                                  # every fault once
    python tests/benchmarks/chaos.py --fault "node loses power" --times 3
    python tests/benchmarks/chaos.py --minutes 15 --seed 0            # random, several in a job

Each job trains 24 steps on two workers, with a checkpoint every 2 steps. Its weights and its series
of metrics must equal, bit for bit, those of a run without faults, and nothing may remain: no
worker, no placement group, no partial file. The result is the share of jobs without losses.
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

from fault_runs import NUM_STEPS, FaultRun, Times, Workload
from faults import FAULTS, finish
from hosts import can_make_hosts
from ray_cluster import Cluster
from table import Ratio, add_json_option, exactly, report

STEP = 11
# Kinds that are noticed within seconds.
INJECTED = ("kill", "stop", "error", "term")
MAX_INJECTED = 3
UNKNOWN = Times(float("nan"), float("nan"))


class Outcome(NamedTuple):
    """One job; ``losses``: differences from the run without faults, and leftovers."""

    fault: str
    times: Times
    losses: list[str]


def main(arguments: list[str]) -> int:
    """Inject faults and report; returns 1 if anything was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fault", choices=FAULTS, help="only this one")
    parser.add_argument("--times", type=int, default=1, help="jobs with each fault")
    parser.add_argument("--minutes", type=float, help="inject random faults for this long")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random faults")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    if not can_make_hosts():
        raise SystemExit("network namespaces need root and iproute2")
    with tempfile.TemporaryDirectory() as temporary:
        workload = Workload(Path(temporary) / "work")
        with Cluster(Path(temporary) / "cluster") as cluster:
            if options.minutes:
                outcomes = run_random_faults(cluster, workload, options.minutes, options.seed)
            else:
                names = [options.fault] if options.fault else list(FAULTS)
                outcomes = [
                    run_with_fault(cluster, workload, name, STEP)
                    for name in names
                    for _ in range(options.times)
                ]
    show_outcomes(outcomes)
    ratios = shares_without_losses(outcomes)
    report(ratios, options.json)
    return 0 if all(ratio.met for ratio in ratios) else 1


def run_with_fault(cluster: Cluster, workload: Workload, name: str, step: int) -> Outcome:
    """Run a job with one of FAULTS."""
    fault = FAULTS[name]
    run, fault_time = fault.inject(cluster, workload, step)
    return outcome_of(cluster, run, name, fault.how, run.times(fault_time))


def run_with_several_faults(cluster: Cluster, workload: Workload, rng: random.Random) -> Outcome:
    """Run a job with up to three faults of its workers; in half of them the driver is killed."""
    count = rng.randint(2, MAX_INJECTED)
    steps = sorted(rng.sample(range(1, NUM_STEPS), count))
    faults = [(rng.randint(0, 1), step, rng.choice(INJECTED)) for step in steps]
    run = FaultRun(cluster, workload, "several", *faults)
    run.start()
    if rng.random() < 0.5:
        run.wait_for_fault(rng.randrange(count))
        time.sleep(rng.uniform(0, 20))
        run.kill_driver()
        run.start()
    finish(run)
    how = ", ".join(f"{kind} rank {rank} step {step}" for rank, step, kind in faults)
    return outcome_of(cluster, run, "several", how, UNKNOWN)


def run_random_faults(
    cluster: Cluster, workload: Workload, minutes: float, seed: int
) -> list[Outcome]:
    """Run jobs with random faults until the time has passed."""
    rng = random.Random(seed)
    deadline_s = time.monotonic() + 60 * minutes
    outcomes = []
    while time.monotonic() < deadline_s:
        if rng.random() < 0.5:
            outcomes.append(run_with_several_faults(cluster, workload, rng))
        else:
            name = rng.choice(list(FAULTS))
            step = rng.randint(2, NUM_STEPS - 3)
            outcomes.append(run_with_fault(cluster, workload, name, step))
    return outcomes


def outcome_of(cluster: Cluster, run: FaultRun, name: str, how: str, times: Times) -> Outcome:
    """The outcome of a finished job, which is printed too."""
    leftovers = cluster.leftovers()
    losses = [*run.differences(), *([f"left: {leftovers}"] if leftovers else [])]
    print(f"{name} ({how}): lost {'; '.join(losses) or 'nothing'}", flush=True)
    return Outcome(name, times, losses)


def by_fault(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of each fault."""
    names = dict.fromkeys(outcome.fault for outcome in outcomes)
    return {name: [o for o in outcomes if o.fault == name] for name in names}


def show_outcomes(outcomes: list[Outcome]) -> None:
    """Print the number of jobs, median seconds and losses for each fault."""
    width = max(len(outcome.fault) for outcome in outcomes)
    print(f"\n{'fault':<{width}}{'jobs':>6}{'noticed s':>11}{'resumed s':>11}  lost")
    for name, group in by_fault(outcomes).items():
        noticed_s = statistics.median(outcome.times.noticed_s for outcome in group)
        resumed_s = statistics.median(outcome.times.resumed_s for outcome in group)
        lost = "; ".join(loss for outcome in group for loss in outcome.losses) or "nothing"
        print(f"{name:<{width}}{len(group):>6}{noticed_s:>11.1f}{resumed_s:>11.1f}  {lost}")


def shares_without_losses(outcomes: list[Outcome]) -> list[Ratio]:
    """For each fault, the share of jobs that lost nothing."""
    return [
        exactly(name, sum(not outcome.losses for outcome in group) / len(group), 1)
        for name, group in by_fault(outcomes).items()
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
