"""Jobs on two hosts that fail in several ways have the result of a job without failures."""

import json
import re
import secrets
import subprocess
import sys
import time

import pytest
from fault_runs import NUM_STEPS, FaultRun, Workload
from faults import SHORT_S, finish
from hosts import can_make_hosts
from ray_cluster import ROOT, Cluster
from support.training_runs import final, loss_series

from service.job import run_job
from service.run.control import POLL_S
from service.spec.errors import EXIT_BAD_INPUT, BadInputError
from service.spec.loading import parse_job

pytestmark = pytest.mark.slow

# Failures that a worker raises, or that Ray reports, are noticed at the controller's next poll.
NOTICE_LIMIT_S = 5.0
HEARTBEAT_TIMEOUT_S = 6.0
# How long Ray waits for a worker that does not answer when it ends all of them.
PATIENCE_S = 5.0
SILENT_LIMIT_S = HEARTBEAT_TIMEOUT_S + PATIENCE_S + NOTICE_LIMIT_S


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    return Workload(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if not can_make_hosts():
        pytest.skip("network namespaces need root and iproute2")
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def assert_nothing_is_lost(cluster, run):
    assert run.differences() == []
    assert cluster.leftovers() == ""


def test_failing_workers_and_drivers_lose_nothing(cluster, workload):
    """Workers are killed, suspended and terminated; then the job is stopped, and its driver killed.

    While it runs, a second submission is rejected.
    """
    faults = [(1, 3, "kill"), (0, 7, "stop"), (1, 11, "term"), (1, 15, "pause"), (1, 19, "pause")]
    run = FaultRun(cluster, workload, "workers", *faults, resources={"max_failures": 2})
    run.start(as_ray_job=True)
    times = [run.wait_for_fault(number) for number in range(4)]
    noticed = [run.times(time).noticed_s for time in times[:3]]
    limits = [NOTICE_LIMIT_S, SILENT_LIMIT_S, NOTICE_LIMIT_S]
    assert all(seconds < limit for seconds, limit in zip(noticed, limits, strict=True)), noticed
    texts = [text for _, text in run.failures]
    assert texts[0].startswith("worker 1: its process was killed;")
    assert "check its memory" in texts[0]
    assert "resources.heartbeat_timeout_s" in texts[1]
    # The signal reaches the process in that step or in the next one.
    assert re.search(r"received SIGTERM; everything up to step (12|13) is saved", texts[2])
    with pytest.raises(BadInputError, match="name: the run 'workers' is already running"):
        run_job(run.job)
    cluster.stop_jobs()
    run.wait_for(run.request_path("stop").exists, "stop request")
    time.sleep(4 * POLL_S)
    run.end_pause(3)
    run.wait()
    status = run.status
    assert (status["state"], status["restarts"]) == ("stopped", 3)
    # The step that was running, and one that started before all ranks had the request.
    assert status["last_checkpoint_step"] in (16, 17)
    assert status["last_failure"] == texts[2]
    run.start()
    run.wait_for_fault(4)
    run.kill_driver()
    run.end_pause(4)
    run.start()
    finish(run)
    assert_nothing_is_lost(cluster, run)
    assert (run.status["state"], run.status["step"]) == ("finished", NUM_STEPS)
    # One start per submission and one after each of three faults, of which two are failures.
    assert len(run.starts) == 3 + 3


def test_wrong_token_is_refused(cluster, workload, tmp_path):
    token_path, spec_path = tmp_path / "token", tmp_path / "refused.json"
    token_path.write_text(secrets.token_hex(32))
    content = workload.content("refused")
    spec_path.write_text(json.dumps(content))
    environment = {
        **cluster.environment,
        "RAY_ADDRESS": cluster.address,
        "RAY_AUTH_TOKEN_PATH": str(token_path),
    }

    result = subprocess.run(
        cluster.head.command(sys.executable, "jobs/distill.py", spec_path),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.returncode == EXIT_BAD_INPUT
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"  RAY_ADDRESS: the cluster at {cluster.address} rejects the token")
    assert not parse_job(content).spec.run_path.exists()


def test_failing_hosts_and_storage_lose_nothing(cluster, workload):
    """A short outage, storage that is full for a while, a node that loses power, then all nodes."""
    faults = [(1, 3, "pause"), (1, 7, "pause"), (1, 12, "pause"), (1, 18, "pause")]
    storage = {"storage_path": str(cluster.storage)}
    run = FaultRun(
        cluster, workload, "hosts", *faults, resources={"max_failures": 1}, checkpoints=storage
    )
    run.start()
    run.wait_for_fault(0)
    cluster.hosts[1].disconnect()
    run.end_pause(0)
    time.sleep(SHORT_S)
    cluster.hosts[1].reconnect()
    run.wait_for_fault(1)
    filler = cluster.fill_storage()
    run.end_pause(1)
    time.sleep(SHORT_S)
    filler.unlink()
    fault_time = run.wait_for_fault(2)
    assert run.failures == []
    cluster.hosts[1].disconnect()
    cluster.nodes[1].kill()
    run.wait_for(lambda: run.failures, "notice of the lost node")
    cluster.hosts[1].reconnect()
    cluster.start(1)
    run.wait_for_fault(3)
    assert run.times(fault_time).noticed_s < SILENT_LIMIT_S
    cluster.restart()
    run.kill_driver()
    run.start()
    finish(run)
    assert_nothing_is_lost(cluster, run)


def test_run_shrinks_when_a_node_is_drained_and_grows_when_one_joins(cluster, workload):
    faults = [(1, 5, "pause"), (0, 12, "pause")]
    resources = {"max_failures": 0, "num_workers": [1, 2], "resize_interval_s": 2}
    run = FaultRun(cluster, workload, "elastic", *faults, resources=resources)
    run.start()
    run.wait_for_fault(0)
    cluster.drain(1, 60)
    time.sleep(3)
    run.end_pause(0)
    run.wait_for_fault(1)
    cluster.nodes[1].kill()
    cluster.start(1)
    run.wait_for(run.request_path("resize").exists, "resize request")
    # The remaining steps may take less time than it takes to see the request.
    time.sleep(4 * POLL_S)
    run.end_pause(1)
    finish(run)
    sizes = [line for line in run.log.splitlines() if line.startswith("training on ")]
    assert [line.split(",")[0] for line in sizes] == [
        "training on 2 workers",
        "training on 1 worker",
        "training on 2 workers",
    ]
    series, expected_series = loss_series(run.spec), loss_series(workload.reference)
    assert [point[:2] for point in series] == [point[:2] for point in expected_series]
    for point, expected in zip(series, expected_series, strict=True):
        if point[0] == "interval":
            assert point[2:] == pytest.approx(expected[2:], rel=1e-5)
    assert final(run.spec)[1]["step"] == NUM_STEPS
    assert cluster.leftovers() == ""
