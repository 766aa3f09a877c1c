"""What can happen to a run, one function each; every one comes to the end of the run left alone.

Each takes a cluster, a workload and a step (2 to 21), lets it happen there, and returns the run and
the Unix time when it did.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from fault_runs import FaultRun
from hosts import stop_process

from service.spec.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED

BRIEFLY_S = 3.0
NO_FAILURES = {"resources": {"max_failures": 0}}


def paused(cluster, workload, name, step, **sections):
    """A run whose second worker waits before a step, and the Unix time since when it does."""
    run = FaultRun(cluster, workload, name, (1, step, "pause"), **sections)
    run.start()
    return run, run.wait_for_fault(0)


def finish(run, expected=EXIT_DONE):
    """Wait for the driver, which must end so."""
    status = run.wait()
    assert status == expected, f"exit status {status}:\n{run.log}"


def injected(kind):
    """A fault that a worker brings upon itself."""

    def happen(cluster, workload, step):
        rank = 0 if kind == "stop" else 1
        run = FaultRun(cluster, workload, kind, (rank, step, kind))
        run.start()
        fault_time = run.wait_for_fault(0)
        finish(run)
        return run, fault_time

    return happen


def worker_terminated(cluster, workload, step):
    """SIGTERM to one worker: all save and leave, and it costs nothing of the budget."""
    run = FaultRun(cluster, workload, "terminated", (1, step, "term"), **NO_FAILURES)
    run.start()
    fault_time = run.wait_for_fault(0)
    finish(run)
    return run, fault_time


def link_cut(seconds):
    """A node cut off the network, while the job is at work; no process notices anything else."""

    def happen(cluster, workload, step):
        run, fault_time = paused(cluster, workload, f"cut{seconds or ''}", step)
        number = other_host(run)
        cluster.hosts[number].cut()
        run.let_go(0)
        if seconds is None:
            run.wait_for(lambda: run.failures, "notice of the cut")
            cluster.hosts[number].mend()
            bring_back(cluster, number)
        else:
            time.sleep(seconds)
            cluster.hosts[number].mend()
        finish(run)
        return run, fault_time

    return happen


def node_vanishes(cluster, workload, step):
    """A node that loses its power: the link is down and no process is left to say goodbye."""
    run, fault_time = paused(cluster, workload, "vanished", step)
    number = other_host(run)
    cluster.hosts[number].cut()
    cluster.nodes[number].kill()
    run.wait_for(lambda: run.failures, "notice of the lost node")
    cluster.hosts[number].mend()
    bring_back(cluster, number)
    finish(run)
    return run, fault_time


def slow_network(cluster, workload, step):
    """Packets that are late and lost: slower, and no failure at all."""
    run, fault_time = paused(cluster, workload, "slow", step, **NO_FAILURES)
    host = cluster.hosts[other_host(run)]
    host.slow_down()
    run.let_go(0)
    finish(run)
    host.speed_up()
    return run, fault_time


def driver_killed(cluster, workload, step):
    """SIGKILL to the process that was submitted; the same spec again goes on."""
    run, fault_time = paused(cluster, workload, "driver", step, **NO_FAILURES)
    run.kill_driver()
    run.let_go(0)
    run.start()
    finish(run)
    return run, fault_time


def driver_terminated(cluster, workload, step):
    """SIGTERM to it: one checkpoint, status 3; the same spec again goes on."""
    run, fault_time = paused(cluster, workload, "stopped", step, **NO_FAILURES)
    stop_process(run.driver, 15)
    time.sleep(1)
    run.let_go(0)
    finish(run, EXIT_STOPPED)
    assert run.status["state"] == "stopped"
    # The step that was under way, and perhaps one more while the request was on its way.
    assert run.status["last_checkpoint_step"] in (step + 1, step + 2)
    run.start()
    finish(run)
    return run, fault_time


def cluster_dies(cluster, workload, step):
    """Every node loses its power at once, the head and the driver with it."""
    run, fault_time = paused(cluster, workload, "cluster", step, **NO_FAILURES)
    cluster.start_over()
    run.kill_driver()
    run.start()
    finish(run)
    return run, fault_time


def node_drained(cluster, workload, step):
    """StopNotice that a node goes away in 30 seconds; another one comes."""
    run, fault_time = paused(cluster, workload, "drained", step, **NO_FAILURES)
    number = other_host(run)
    cluster.drain(number, 30)
    time.sleep(2)
    run.let_go(0)
    run.wait_for(lambda: run.failures, "notice of the drain")
    cluster.nodes[number].kill()
    cluster.start(number)
    finish(run)
    return run, fault_time


def storage_fails(seconds):
    """The shared storage has no room, for a while or for too long."""

    def happen(cluster, workload, step):
        storage = {"storage_path": str(cluster.storage)}
        # Longer than the storage is tried, or the other worker would give up first.
        resources = {"max_failures": 0, "collective_timeout_s": 60}
        run, fault_time = paused(
            cluster, workload, "storage", step, resources=resources, checkpoints=storage
        )
        filler = cluster.fill_storage()
        run.let_go(0)
        if seconds is None:
            finish(run, EXIT_FAILED)
            assert "no checkpoint can be written" in run.log
            assert "No space left on device" in run.log
            filler.unlink()
            run.start()
        else:
            time.sleep(seconds)
            filler.unlink()
        finish(run)
        return run, fault_time

    return happen


def other_host(run):
    """Number of the host beside the driver's; a worker is on each."""
    assert len(run.cluster.hosts) == 2
    return 1


def bring_back(cluster, number):
    """What whoever runs the nodes does: start one that has ended and does not come back."""
    deadline_s = time.monotonic() + 45
    while cluster.nodes[number].is_running():
        if cluster.num_alive() == len(cluster.hosts):
            return
        if time.monotonic() > deadline_s:
            break
        time.sleep(1)
    cluster.nodes[number].stop()
    cluster.start(number)


class Fault(NamedTuple):
    """``how`` it is brought about; ``happen`` as above."""

    how: str
    happen: Callable[[Any, Any, int], tuple[FaultRun, float]]


FAULTS = {
    "worker killed": Fault("SIGKILL to a worker", injected("kill")),
    "worker stopped": Fault("SIGSTOP to a worker", injected("stop")),
    "worker hangs": Fault("training thread sleeps for ever", injected("hang")),
    "worker raises": Fault("exception in a worker", injected("error")),
    "worker told to end": Fault("SIGTERM to a worker, no failures allowed", worker_terminated),
    "short cut": Fault("link down for 3 s", link_cut(BRIEFLY_S)),
    "node cut off": Fault("link down until noticed", link_cut(None)),
    "node vanishes": Fault("link down, all its processes killed", node_vanishes),
    "slow network": Fault("tc: delay and loss, no failures allowed", slow_network),
    "driver killed": Fault("SIGKILL to the driver, submitted again", driver_killed),
    "job told to end": Fault("SIGTERM to the driver, submitted again", driver_terminated),
    "cluster dies": Fault("all nodes and the driver killed, submitted again", cluster_dies),
    "node drained": Fault("drain notice of 30 s, another node comes", node_drained),
    "storage fails": Fault("storage full for 3 s, no failures allowed", storage_fails(BRIEFLY_S)),
    "storage stays full": Fault(
        "storage full until the job gives up, submitted again", storage_fails(None)
    ),
}
