"""A sweep as a Ray job on two hosts, and what it leaves; needs root, for network namespaces.

    python tests/benchmarks/sweep_hosts.py SWEEP.json [--confirm N] [--cpus N] [--kill-in-trial K]

With --kill-in-trial the driver is killed (SIGKILL) when so many trials have begun, and the same
sweep is submitted again; the trials that had ended must not be run again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "cluster"))

import psutil
from hosts import ROOT, can_make_hosts
from ray_cluster import Cluster

from service.run.journal import JOURNAL_NAME, read_events
from service.sweep.loading import load_sweep
from service.sweep.spec import SweepSpec
from service.sweep.study import Search
from service.sweep.trials import TRIALS_NAME

PARTWAY_S = 3.0


def main(arguments: list[str]) -> int:
    """Run it, print what came of it, and return 1 if something was left or run again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="the JSON spec of the sweep, with absolute paths")
    parser.add_argument("--confirm", type=int, help="seeds")
    parser.add_argument("--cpus", type=int, default=1, help="of each host")
    parser.add_argument("--kill-in-trial", type=int, metavar="K", help="number from 0")
    options = parser.parse_args(arguments)
    if not can_make_hosts():
        raise SystemExit("network namespaces need root and iproute2")
    sweep = load_sweep(options.sweep)
    more = ["--confirm", str(options.confirm)] if options.confirm else []
    with (
        tempfile.TemporaryDirectory() as temporary,
        Cluster(Path(temporary), num_cpus=options.cpus) as cluster,
    ):
        is_clean = True
        if options.kill_in_trial is not None:
            job = submit(cluster, options.sweep, more)
            kill_in_trial(sweep, options.sweep, options.kill_in_trial)
            job.wait()
            is_clean &= report("after the kill", sweep, cluster)
        before = starts_of_ended_trials(sweep)
        start_s = time.monotonic()
        exit_status = submit(cluster, options.sweep, more).wait()
        print(f"exit status {exit_status}, {time.monotonic() - start_s:.0f} s")
        after = starts_of_ended_trials(sweep)
        again = [number for number, count in before.items() if after[number] != count]
        print(f"trials that had ended and were run again: {again or 'none'}")
        is_clean &= report("at the end", sweep, cluster)
    return 0 if exit_status == 0 and is_clean and not again else 1


def submit(cluster: Cluster, path: Path, more: list[str]) -> subprocess.Popen[bytes]:
    """``ray job submit`` on the head; its log goes on here."""
    command = ["ray", "job", "submit", "--address", f"http://{cluster.head.address}:8265", "--"]
    return subprocess.Popen(
        cluster.head.command(*command, "python", "jobs/sweep.py", str(path.absolute()), *more),
        cwd=ROOT,
        env={**cluster.environment, "RAY_ADDRESS": cluster.address, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def kill_in_trial(sweep: SweepSpec, path: Path, number: int) -> None:
    """SIGKILL to the driver, some way into a trial."""
    journal = sweep.sweep_path / TRIALS_NAME / f"trial-{number:04d}" / JOURNAL_NAME
    while not journal.exists():
        time.sleep(0.5)
    time.sleep(PARTWAY_S)
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:3] == ["jobs/sweep.py", str(path.absolute())]:
            process.kill()


def starts_of_ended_trials(sweep: SweepSpec) -> dict[int, int]:
    """How often each trial that has ended began to train."""
    if not sweep.sweep_path.exists():
        return {}
    ended = [
        record.number
        for record in Search(sweep, sweep.sweep_path).records()
        if record.state in ("finished", "stopped", "failed")
    ]
    folder = sweep.sweep_path / TRIALS_NAME
    return {
        number: sum(
            event.kind == "start"
            for event in read_events(folder / f"trial-{number:04d}" / JOURNAL_NAME)
        )
        for number in ended
    }


def report(when: str, sweep: SweepSpec, cluster: Cluster) -> bool:
    """Print the trials as they stand and what is left in the cluster; whether nothing is."""
    left = cluster.leftovers()
    for record in Search(sweep, sweep.sweep_path).records():
        epochs = record.curve[-1][0] if record.curve else 0
        print(f"{record.number}: {record.state}, {epochs} epochs, {record.score}, ", end="")
        print(json.dumps(record.params))
    print(f"left {when}: {left or 'nothing'}", flush=True)
    return not left


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
