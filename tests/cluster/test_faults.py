"""Real jobs on two hosts that are broken in every way come to the end of one that was not."""

import re
import time

import pytest
from fault_runs import FaultRun, Workload
from faults import finish
from hosts import can_make_hosts
from ray_cluster import Cluster
from support.training_runs import final, loss_series

from service.job import run_job
from service.run.control import POLL_S
from service.spec.errors import BadInputError

pytestmark = pytest.mark.slow

# What a worker notices itself, and what Ray tells the controller, is known at its next look.
SOON_S = 5.0
NO_FAILURES = {"max_failures": 0}


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    return Workload(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if not can_make_hosts():
        pytest.skip("network namespaces need root and iproute2")
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def assert_nothing_lost(cluster, run):
    assert run.losses() == []
    assert cluster.leftovers() == ""


def test_workers_that_fail_one_after_the_other_cost_nothing_nor_do_drivers(cluster, workload):
    """Workers are killed, hang and are told to end; then the job is stopped, and its driver killed.

    It is submitted twice at once as well.
    """
    faults = [(1, 3, "kill"), (0, 7, "stop"), (1, 11, "term"), (1, 15, "pause"), (1, 19, "pause")]
    run = FaultRun(cluster, workload, "workers", *faults, resources={"max_failures": 2})
    run.start(as_ray_job=True)
    times = [run.wait_for_fault(number) for number in range(4)]
    noticed = [run.times(time).noticed_s for time in times[:3]]
    limits = [SOON_S, 6 + SOON_S, SOON_S]
    assert all(seconds < limit for seconds, limit in zip(noticed, limits, strict=True)), noticed
    texts = [text for _, text in run.failures]
    assert "was killed or crashed" in texts[0]
    assert "resources.heartbeat_timeout_s" in texts[1]
    # The signal reaches the process in that step or in the one after it.
    assert re.search(r"sent SIGTERM; everything up to step (12|13) is saved", texts[2])
    with pytest.raises(BadInputError, match="name: the run 'workers' is under way already"):
        run_job(run.spec)
    cluster.stop_jobs()
    run.wait_for(run.request_path("stop").exists, "request to stop")
    time.sleep(4 * POLL_S)
    run.let_go(3)
    run.wait()
    status = run.status
    assert (status["state"], status["restarts"]) == ("stopped", 3)
    # The step that was under way, and the one that began before the request was agreed on.
    assert status["last_checkpoint_step"] in (16, 17)
    assert status["last_failure"] == texts[2]
    run.start()
    run.wait_for_fault(4)
    run.kill_driver()
    run.let_go(4)
    run.start()
    finish(run)
    assert_nothing_lost(cluster, run)
    assert (run.status["state"], run.status["step"]) == ("finished", 24)
    # One start each, three times again for the faults: the budget had no part in the rest.
    assert len(run.starts) == 3 + 3


def test_hosts_and_storage_that_fail_one_after_the_other_cost_nothing(cluster, workload):
    """A short cut, storage that is full for 3 s, a node that vanishes, then all of them."""
    faults = [(1, 3, "pause"), (1, 7, "pause"), (1, 12, "pause"), (1, 18, "pause")]
    storage = {"storage_path": str(cluster.storage)}
    run = FaultRun(
        cluster, workload, "hosts", *faults, resources={"max_failures": 1}, checkpoints=storage
    )
    run.start()
    run.wait_for_fault(0)
    cluster.hosts[1].cut()
    run.let_go(0)
    time.sleep(3)
    cluster.hosts[1].mend()
    run.wait_for_fault(1)
    filler = cluster.fill_storage()
    run.let_go(1)
    time.sleep(3)
    filler.unlink()
    fault_time = run.wait_for_fault(2)
    assert run.failures == []
    cluster.hosts[1].cut()
    cluster.nodes[1].kill()
    run.wait_for(lambda: run.failures, "notice of the lost node")
    cluster.hosts[1].mend()
    cluster.start(1)
    run.wait_for_fault(3)
    assert run.times(fault_time).noticed_s < 6 + SOON_S
    cluster.start_over()
    run.kill_driver()
    run.start()
    finish(run)
    assert_nothing_lost(cluster, run)


def test_run_shrinks_when_a_node_is_drained_and_grows_when_one_comes(cluster, workload):
    faults = [(1, 5, "pause"), (0, 12, "pause")]
    resources = {**NO_FAILURES, "num_workers": [1, 2], "resize_interval_s": 2}
    run = FaultRun(cluster, workload, "elastic", *faults, resources=resources)
    run.start()
    run.wait_for_fault(0)
    cluster.drain(1, 60)
    time.sleep(3)
    run.let_go(0)
    run.wait_for_fault(1)
    cluster.nodes[1].kill()
    cluster.start(1)
    run.wait_for(run.request_path("resize").exists, "request to leave")
    run.let_go(1)
    finish(run)
    sizes = [line for line in run.log.splitlines() if line.startswith("training on ")]
    assert [line.split(",")[0] for line in sizes] == [
        "training on 2 workers",
        "training on 1 worker",
        "training on 2 workers",
    ]
    ours, theirs = loss_series(run.spec), loss_series(workload.straight)
    assert [entry[:2] for entry in ours] == [entry[:2] for entry in theirs]
    for (kind, _, loss, dtkd), (_, _, other_loss, other_dtkd) in zip(ours, theirs, strict=True):
        if kind == "interval":
            assert loss == pytest.approx(other_loss, rel=1e-5)
            assert dtkd == pytest.approx(other_dtkd, rel=1e-5)
    assert final(run.spec)[1]["step"] == 24
    assert cluster.leftovers() == ""
