"""A sweep as a Ray job on two hosts, and its leftovers; needs root, for network namespaces.

    python tests/benchmarks/sweep_hosts.py SWEEP.json [--confirm N] [--cpus N] [--kill-in-trial K]

With --kill-in-trial the driver is killed (SIGKILL) in trial K, and the same sweep is submitted
again; trials that had ended must not run again.
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
from table import add_json_option, exactly, report

from service.run.journal import JOURNAL_NAME, read_events
from service.sweep.loading import load_sweep
from service.sweep.spec import SweepSpec
from service.sweep.study import Search
from service.sweep.trials import TRIALS_NAME, trial_name

KILL_DELAY_S = 3.0


def main(arguments: list[str]) -> int:
    """Run the sweep and report; returns 1 if something remains or ran again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="the JSON spec of the sweep, with absolute paths")
    parser.add_argument("--confirm", type=int, metavar="N", help="number of seeds")
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help="CPUs of each host")
    parser.add_argument("--kill-in-trial", type=int, metavar="K", help="number of a trial, from 0")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    if not can_make_hosts():
        raise SystemExit("network namespaces need root and iproute2")
    sweep = load_sweep(options.sweep).sweep
    confirm = ["--confirm", str(options.confirm)] if options.confirm else []
    with (
        tempfile.TemporaryDirectory() as temporary,
        Cluster(Path(temporary), num_cpus=options.cpus) as cluster,
    ):
        leftovers = []
        if options.kill_in_trial is not None:
            job = submit(cluster, options.sweep, confirm)
            kill_in_trial(sweep, options.sweep, options.kill_in_trial)
            job.wait()
            leftovers.append(show_state("after the kill", sweep, cluster))
        before = starts_of_ended_trials(sweep)
        start_s = time.monotonic()
        exit_status = submit(cluster, options.sweep, confirm).wait()
        print(f"exit status {exit_status}, {time.monotonic() - start_s:.0f} s")
        after = starts_of_ended_trials(sweep)
        leftovers.append(show_state("at the end", sweep, cluster))
    num_repeated = sum(after[number] != num_starts for number, num_starts in before.items())
    ratios = [
        exactly("exit status of the sweep", exit_status, 0),
        exactly("ended trials that ran again", num_repeated, 0),
        exactly("times that something remained in the cluster", sum(map(bool, leftovers)), 0),
    ]
    report(ratios, options.json)
    return 0 if all(ratio.met for ratio in ratios) else 1


def submit(cluster: Cluster, path: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    """``ray job submit`` on the head; its log is printed here."""
    command = ["ray", "job", "submit", "--address", f"http://{cluster.head.address}:8265", "--"]
    command += ["python", "jobs/sweep.py", str(path.absolute()), *arguments]
    return subprocess.Popen(
        cluster.head.command(*command),
        cwd=ROOT,
        env={**cluster.environment, "RAY_ADDRESS": cluster.address, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def journal_path(sweep: SweepSpec, number: int) -> Path:
    """The journal of a trial."""
    return sweep.sweep_path / TRIALS_NAME / trial_name(number) / JOURNAL_NAME


def kill_in_trial(sweep: SweepSpec, path: Path, number: int) -> None:
    """Send SIGKILL to the driver, some seconds after a trial has started."""
    while not journal_path(sweep, number).exists():
        time.sleep(0.5)
    time.sleep(KILL_DELAY_S)
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:3] == ["jobs/sweep.py", str(path.absolute())]:
            process.kill()


def starts_of_ended_trials(sweep: SweepSpec) -> dict[int, int]:
    """Number of times that each trial started to train, of those that have ended."""
    if not sweep.sweep_path.exists():
        return {}
    return {
        record.number: sum(
            event.kind == "start" for event in read_events(journal_path(sweep, record.number))
        )
        for record in Search(sweep).records()
        if record.state in ("finished", "stopped", "failed")
    }


def show_state(when: str, sweep: SweepSpec, cluster: Cluster) -> str:
    """Print the trials and the cluster's leftovers; returns the leftovers."""
    leftovers = cluster.leftovers()
    for record in Search(sweep).records():
        epochs = record.curve[-1][0] if record.curve else 0
        print(f"{record.number}: {record.state}, {epochs} epochs, {record.score}, ", end="")
        print(json.dumps(record.params))
    print(f"left {when}: {leftovers or 'nothing'}", flush=True)
    return leftovers


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
