"""Jobs under Slurm: stopped, preempted and requeued, they lose nothing, and they share nodes."""

import contextlib

import psutil
import pytest
from fault_runs import NUM_STEPS, FaultRun
from hosts import can_make_hosts
from node_folder import PARENT, PREFIX
from slurm_cluster import SlurmCluster, missing_programs
from waiting import wait_until

from service.run.control import pending_request
from service.run.result import RESULT_NAME
from service.spec.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_STOPPED

SCRIPT = "deploy/slurm/distill.sbatch"
# On a busy machine.
START_LIMIT_S = 300.0
# Slurm looks every 30 seconds for jobs that are near their limits.
SIGNAL_LIMIT_S = 90.0
# Pauses are no failures.
PATIENCE = {"heartbeat_timeout_s": 60, "collective_timeout_s": 300}
ONE_WORKER = {"num_workers": 1, **PATIENCE}


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

    def __init__(self, cluster, run, *options, arguments=()):
        self._cluster, self.run = cluster, run
        options = ["--cpus-per-task=1", f"--output={run.log_path}", *options]
        self.number = cluster.submit(*options, SCRIPT, run.spec_path, *arguments)

    @property
    def log(self):
        return self.run.log_path.read_text()

    def field(self, name):
        return self._cluster.job(self.number)[name]

    def wait_for(self, condition, what, limit_s=START_LIMIT_S):
        try:
            wait_until(condition, what, limit_s)
        except TimeoutError as error:
            raise AssertionError(f"{error}, {self.field('JobState')}:\n{self.log}") from error

    def wait_for_fault(self, number):
        path = self._cluster.plan_folder / f"fired-{number}"
        self.wait_for(path.exists, f"fault {number}")

    def wait_for_restarts(self, count):
        self.wait_for(lambda: self.field("Restarts") == str(count), f"restart {count}")

    def wait_until_stopping(self):
        run_path = self.run.spec.run_path
        self.wait_for(lambda: pending_request(run_path) == "stop", "request", SIGNAL_LIMIT_S)

    def wait_for_end(self):
        return self._cluster.wait_for_end(self.number, START_LIMIT_S)


def test_allocation_that_is_too_small_is_refused_in_one_line(cluster, workload):
    job = Job(cluster, FaultRun(cluster, workload, "small"), "--nodes=1")
    assert job.wait_for_end() == EXIT_BAD_INPUT
    assert job.log == (
        "deploy: resources.num_workers: 2 workers with 1 CPUs each are needed, and 1 fit on what "
        "Slurm has allocated: 1 CPUs and 0 GPUs on a node; sbatch --nodes=1 --cpus-per-task=2, or "
        "request less in resources\n"
    )


def test_cancelled_requeued_and_preempted_run_loses_nothing(cluster, workload):
    pauses = [(0, 5, "pause"), (1, 11, "pause"), (0, 17, "pause")]
    run = FaultRun(cluster, workload, "slurm", *pauses, resources=PATIENCE)
    job = Job(cluster, run, "--nodes=2")
    job.wait_for_fault(0)
    cluster.run("scancel", job.number)
    job.wait_for(lambda: job.field("JobState") == "CANCELLED", "cancelled job")

    # Submitted again, it is stopped ahead of its time limit, and requeues itself.
    job = Job(cluster, run, "--nodes=2", arguments=["--until-done"])
    job.wait_for_fault(1)
    minutes = elapsed_minutes(job) + 3
    cluster.run("scontrol", "update", f"JobId={job.number}", f"TimeLimit={minutes}")
    job.wait_until_stopping()
    run.end_pause(1)
    job.wait_for_restarts(1)
    cluster.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")

    # A job of a partition with a higher priority needs its nodes.
    job.wait_for_fault(2)
    quick = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true"]
    urgent = cluster.submit(*quick)
    assert cluster.wait_for_end(urgent, START_LIMIT_S) == EXIT_DONE
    assert job.wait_for_end() == EXIT_DONE, job.log
    assert job.field("Restarts") == "2"
    assert f"restart 2 of job {job.number}: resuming {run.spec.run_path}" in job.log
    assert run.differences() == []


def elapsed_minutes(job):
    hours, minutes, _ = job.field("RunTime").split(":")
    return 60 * int(hours) + int(minutes)


def test_two_jobs_share_a_node_and_one_is_stopped(cluster, workload):
    # The job that is the first to reach the step waits there.
    runs = [
        FaultRun(cluster, workload, name, (0, 5, "pause"), resources=ONE_WORKER)
        for name in ("one", "two")
    ]
    jobs = [Job(cluster, run, "--nodelist=n1", "--no-requeue") for run in runs]
    jobs[0].wait_for_fault(0)
    wait_until(lambda: any(is_done(run) for run in runs), "result of the other", START_LIMIT_S)
    waiting, other = jobs if is_done(runs[1]) else jobs[::-1]
    assert_token_is_hidden(cluster, waiting.number)
    assert other.wait_for_end() == EXIT_DONE, other.log

    cluster.run("scancel", "--batch", "--signal=TERM", waiting.number)
    waiting.wait_until_stopping()
    waiting.run.end_pause(0)
    assert waiting.wait_for_end() == EXIT_STOPPED, waiting.log
    # It ends within steps of the request, and all that it did is saved.
    status = waiting.run.status
    assert 5 < status["step"] < NUM_STEPS
    assert status["last_checkpoint_step"] == status["step"]
    # They have removed their files, and those of the jobs that were killed before.
    assert list(PARENT.glob(f"{PREFIX}*")) == []


def is_done(run):
    return (run.spec.run_path / RESULT_NAME).exists()


def assert_token_is_hidden(cluster, number):
    """The token of a job is in the environment of its processes, and nowhere else."""
    tokens, command_lines = set(), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command_lines.append(" ".join(process.cmdline()))
            environment = process.environ()
            if environment.get("SLURM_JOB_ID") == number:
                tokens |= {environment.get("RAY_AUTH_TOKEN")}
    (token,) = tokens - {None}
    shown = [cluster.run("scontrol", "--details", "show", kind).stdout for kind in ("job", "step")]
    assert f"JobId={number} " in shown[0]
    assert not any(token in text for text in (*command_lines, *shown))
    files = [path for path in cluster.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if token.encode() in path.read_bytes()]
