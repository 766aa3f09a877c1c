"""Jobs under Slurm on two nodes: stopped, preempted and requeued, they lose nothing."""

import json
import time

import pytest
from fault_runs import FaultRun, Workload
from hosts import can_make_hosts
from slurm_cluster import SlurmCluster, missing_programs, wait_until
from support.spec_contents import spec_content

from service.run.control import pending_request
from service.spec.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_STOPPED

SCRIPT = "deploy/slurm/distill.sbatch"
START_LIMIT_S = 120.0
# Slurm looks for jobs that are near their limits every 30 seconds.
SIGNAL_LIMIT_S = 90.0


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    return Workload(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if missing := missing_programs():
        pytest.skip(f"needs {', '.join(missing)}: run deploy/local/system-packages.sh as root")
    if not can_make_hosts():
        pytest.skip("network namespaces need root and iproute2")
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


class Job:
    """A Slurm job of a run with faults."""

    def __init__(self, cluster, run, *arguments):
        self._cluster, self._run = cluster, run
        options = ["--nodes=2", "--cpus-per-task=1", f"--output={run.log_path}"]
        self.number = cluster.submit(*options, SCRIPT, run.spec_path, *arguments)

    @property
    def log(self):
        return self._run.log_path.read_text()

    @property
    def state(self):
        return self._cluster.job(self.number)["JobState"]

    def wait_for_fault(self, number):
        path = self._cluster.plan_folder / f"fired-{number}"
        try:
            wait_until(path.exists, f"fault {number}", START_LIMIT_S)
        except TimeoutError as error:
            raise AssertionError(f"{self.state}:\n{self.log}") from error

    def wait_for_restarts(self, count):
        wait_until(
            lambda: self._cluster.job(self.number)["Restarts"] == str(count),
            f"restart {count}",
            SIGNAL_LIMIT_S,
        )


def test_cancelled_requeued_and_preempted_run_loses_nothing(cluster, workload):
    pauses = [(0, 5, "pause"), (1, 11, "pause"), (0, 17, "pause")]
    # Pauses are no failures.
    patience = {"heartbeat_timeout_s": 60, "collective_timeout_s": 300}
    run = FaultRun(cluster, workload, "slurm", *pauses, resources=patience)
    t0 = time.monotonic()
    job = Job(cluster, run)
    job.wait_for_fault(0)
    print("fault 0", time.monotonic() - t0)
    cluster.run("scancel", job.number)
    wait_until(lambda: job.state == "CANCELLED", "cancelled job")
    print("cancelled", time.monotonic() - t0)
    print(job.log)

    # Submitted again, it is stopped ahead of its time limit, and requeues itself.
    job = Job(cluster, run, "--until-done")
    job.wait_for_fault(1)
    print("fault 1", time.monotonic() - t0)
    cluster.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=3")
    wait_until(
        lambda: pending_request(run.spec.run_path) == "stop", "request to stop", SIGNAL_LIMIT_S
    )
    print("stop requested", time.monotonic() - t0)
    run.end_pause(1)
    job.wait_for_restarts(1)
    print("restart 1", time.monotonic() - t0)
    cluster.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    job.wait_for_fault(2)
    print("fault 2", time.monotonic() - t0)
    # A job of a partition with a higher priority needs the nodes.
    urgent = cluster.submit("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=true")
    assert cluster.wait_for_end(urgent, SIGNAL_LIMIT_S) == EXIT_DONE
    print("preempted", time.monotonic() - t0)
    assert cluster.wait_for_end(job.number, START_LIMIT_S) == EXIT_DONE
    print("end", time.monotonic() - t0)
    print(job.log)
    assert cluster.job(job.number)["Restarts"] == "2"
    assert run.differences() == []
