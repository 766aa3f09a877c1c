"""A cluster whose head loses power and starts again, with its state in Redis: jobs lose nothing."""

import pytest
from durable_cluster import DurableCluster, missing_programs
from fault_runs import FaultRun
from hosts import can_make_hosts
from injector import write_plan
from waiting import wait_until

from service.run.result import RESULT_NAME

# Two workers for each of two jobs.
NUM_CPUS = 4
# On a busy machine.
LIMIT_S = 240.0
# Pauses are no failures.
PATIENCE = {"heartbeat_timeout_s": 120, "collective_timeout_s": 120, "max_failures": 0}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if missing := missing_programs():
        pytest.skip(f"needs {', '.join(missing)}: run deploy/local/system-packages.sh as root")
    if not can_make_hosts():
        pytest.skip("network namespaces need root and iproute2")
    with DurableCluster(tmp_path_factory.mktemp("durable"), NUM_CPUS) as cluster:
        yield cluster


def wait_for_end(cluster, name):
    """Wait for a Ray job; returns its log, if it has succeeded."""
    ended = ("SUCCEEDED", "FAILED", "STOPPED")
    wait_until(lambda: cluster.job_status(name) in ended, f"end of {name}", LIMIT_S)
    log = cluster.job_log(name)
    assert cluster.job_status(name) == "SUCCEEDED", log
    return log


def test_jobs_survive_the_head_or_resume(cluster, workload):
    """One driver runs on the worker's host, the other on the head's.

    The first one's workers train to the end while there is no head; the result is written when it
    is back.
    """
    survivor = FaultRun(cluster, workload, "survivor", resources=PATIENCE)
    resumed = FaultRun(cluster, workload, "resumed", resources=PATIENCE)
    # Each pauses once, whichever comes first.
    write_plan(cluster.plan_folder, (1, 7, "pause"), (1, 11, "pause"))
    cluster.submit_on(1, survivor.spec_path, "survivor")
    cluster.submit_on(0, resumed.spec_path, "resumed")
    paused = [cluster.plan_folder / f"fired-{number}" for number in range(2)]
    wait_until(lambda: all(path.exists() for path in paused), "step of both jobs", LIMIT_S)
    cluster.kill_head()
    for number in range(2):
        survivor.end_pause(number)
    wait_until(
        lambda: survivor.status["last_checkpoint_step"] == 24, "training without a head", LIMIT_S
    )
    assert not (survivor.spec.run_path / RESULT_NAME).exists()
    cluster.restart_head()

    wait_for_end(cluster, "survivor")
    assert survivor.differences() == []
    assert len(survivor.starts) == 1
    wait_until(
        lambda: cluster.job_status("resumed") == "FAILED", "notice of the lost driver", LIMIT_S
    )
    assert not (resumed.spec.run_path / RESULT_NAME).exists()
    cluster.submit_on(0, resumed.spec_path, "resumed-again")
    assert "training on 2 workers, from step" in wait_for_end(cluster, "resumed-again")
    assert resumed.differences() == []
    assert len(resumed.starts) == 2
    wait_until(
        lambda: cluster.query("held_resources") == [0, 0], "release of all resources", LIMIT_S
    )


def test_redis_answers_nobody_without_the_password(cluster):
    assert "NOAUTH" in cluster.redis("KEYS", "*")
    assert "NOAUTH" in cluster.redis("KEYS", "*", password="0" * 32)


def test_the_password_is_in_no_file(cluster):
    assert cluster.files_with_the_password() == []
