"""Real jobs on two hosts that are broken in every way come to the end of one that was not."""

import json
import math
import time

import pytest
from fault_runs import FaultRun, Workload
from faults import FAULTS, finish
from hosts import Cluster, can_make_hosts
from training_runs import final, loss_series

from service.problems import EXIT_BAD_INPUT

pytestmark = pytest.mark.slow

STEP = 11
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


def test_workers_that_fail_one_after_the_other_cost_nothing(cluster, workload):
    faults = [(1, 5, "kill"), (0, 10, "stop"), (1, 15, "term"), (1, 19, "error")]
    run = FaultRun(cluster, workload, "workers", *faults, resources={"max_failures": 3})
    run.start()
    times = [run.wait_for_fault(number) for number in range(len(faults))]
    finish(run)
    assert_nothing_lost(cluster, run)
    noticed = [run.times(time).noticed_s for time in times]
    limits = [SOON_S, 6 + SOON_S, SOON_S, SOON_S]
    assert all(seconds < limit for seconds, limit in zip(noticed, limits, strict=True)), noticed
    texts = [text for _, text in run.failures]
    assert "was killed or crashed" in texts[0]
    assert "resources.silence_timeout_s" in texts[1]
    assert "sent SIGTERM; everything up to step 16 is saved" in texts[2]
    assert "worker 1: RuntimeError: injected" in texts[3]
    status = run.status
    assert (status["state"], status["restarts"], status["step"]) == ("finished", 4, 24)
    assert status["last_failure"] == texts[3]


def test_node_that_is_cut_off_and_vanishes_is_noticed_and_replaced(cluster, workload):
    run, fault_time = FAULTS["node vanishes"].happen(cluster, workload, STEP)
    assert_nothing_lost(cluster, run)
    assert run.times(fault_time).noticed_s < 6 + SOON_S


def test_short_cut_of_the_network_is_no_failure(cluster, workload):
    run, fault_time = FAULTS["short cut"].happen(cluster, workload, STEP)
    assert_nothing_lost(cluster, run)
    assert math.isnan(run.times(fault_time).noticed_s)


def test_driver_that_is_stopped_killed_and_submitted_twice_goes_on(cluster, workload):
    faults = [(1, 5, "pause"), (1, 12, "pause")]
    run = FaultRun(cluster, workload, "drivers", *faults, resources=NO_FAILURES)
    run.start(as_ray_job=True)
    run.wait_for_fault(0)
    second = cluster.submit(run.spec_path, run.log_path.with_suffix(".second"))
    assert second.wait(60) == EXIT_BAD_INPUT
    text = run.log_path.with_suffix(".second").read_text()
    assert "name: the run 'drivers' is under way already" in text
    cluster.stop_jobs()
    run.let_go(0)
    assert run.wait() != 0
    mlflow_run_id = (run.spec.run_path / "mlflow_run_id").read_text()
    run.start()
    run.wait_for_fault(1)
    run.kill_driver()
    run.let_go(1)
    run.start()
    finish(run)
    assert_nothing_lost(cluster, run)
    assert (run.spec.run_path / "mlflow_run_id").read_text() == mlflow_run_id
    run.start()
    finish(run)
    assert "drivers is finished already; nothing to train" in run.log
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
    cluster.nodes[1].stop()
    cluster.start(1)
    run.wait_for((run.spec.run_path / ".leave").exists, "request to leave")
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


def test_whole_cluster_dies_and_another_one_goes_on(cluster, workload):
    run, _ = FAULTS["cluster dies"].happen(cluster, workload, STEP)
    assert_nothing_lost(cluster, run)
    content = json.loads((run.spec.run_path / "result.json").read_text())
    assert content["address"] is not None
