"""The faults that can happen to a run, one function each; the run has the reference's result.

Each takes a cluster, a workload and a step (2 to 21), injects its fault at that step, and
returns the run and the Unix time of the fault.
"""

import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from fault_runs import FaultRun
from hosts import stop_process

from service.spec.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED

SHORT_S = 3.0
RECONNECT_LIMIT_S = 45.0
# A worker runs on each of two hosts, the driver on the first.
OTHER_HOST = 1
NO_FAILURES = {"resources": {"max_failures": 0}}


def start_and_pause(cluster, workload, name, step, **sections):
    """Start a run whose second worker pauses before a step; returns the Unix time of that too."""
    run = FaultRun(cluster, workload, name, (1, step, "pause"), **sections)
    run.start()
    return run, run.wait_for_fault(0)


def finish(run, expected=EXIT_DONE):
    """Wait for the driver, and check its exit status."""
    status = run.wait()
    assert status == expected, f"exit status {status}:\n{run.log}"


def injected(kind, **sections):
    """A fault of a worker process itself."""

    def inject(cluster, workload, step):
        rank = 0 if kind == "stop" else 1
        run = FaultRun(cluster, workload, kind, (rank, step, kind), **sections)
        run.start()
        fault_time = run.wait_for_fault(0)
        finish(run)
        return run, fault_time

    return inject


def network_outage(seconds):
    """A node is disconnected during a step, for a while, or (None) until that is noticed."""

    def inject(cluster, workload, step):
        name = f"outage-{'noticed' if seconds is None else 'short'}"
        run, fault_time = start_and_pause(cluster, workload, name, step)
        host = cluster.hosts[OTHER_HOST]
        host.disconnect()
        run.end_pause(0)
        if seconds is None:
            run.wait_for(lambda: run.failures, "notice of the outage")
            host.reconnect()
            restart_if_needed(cluster, OTHER_HOST)
        else:
            time.sleep(seconds)
            host.reconnect()
        finish(run)
        return run, fault_time

    return inject


def node_loses_power(cluster, workload, step):
    """A node is disconnected and all its processes are killed: no connection is closed."""
    run, fault_time = start_and_pause(cluster, workload, "node-power", step)
    host = cluster.hosts[OTHER_HOST]
    host.disconnect()
    cluster.nodes[OTHER_HOST].kill()
    run.wait_for(lambda: run.failures, "notice of the lost node")
    host.reconnect()
    restart_if_needed(cluster, OTHER_HOST)
    finish(run)
    return run, fault_time


def slow_network(cluster, workload, step):
    """Packets are late or lost: the run is slower, and nothing fails."""
    run, fault_time = start_and_pause(cluster, workload, "slow", step, **NO_FAILURES)
    host = cluster.hosts[OTHER_HOST]
    host.slow_down()
    run.end_pause(0)
    finish(run)
    host.restore_speed()
    return run, fault_time


def driver_killed(cluster, workload, step):
    """The driver gets SIGKILL; the same spec, submitted again, resumes."""
    run, fault_time = start_and_pause(cluster, workload, "driver", step, **NO_FAILURES)
    run.kill_driver()
    run.end_pause(0)
    run.start()
    finish(run)
    return run, fault_time


def driver_terminated(cluster, workload, step):
    """The driver gets SIGTERM: one checkpoint, exit status 3; submitted again, it resumes."""
    run, fault_time = start_and_pause(cluster, workload, "stopped", step, **NO_FAILURES)
    stop_process(run.driver, signal.SIGTERM)
    time.sleep(1)
    run.end_pause(0)
    finish(run, EXIT_STOPPED)
    assert run.status["state"] == "stopped"
    # The step that was running, and perhaps one more before the request was polled.
    assert run.status["last_checkpoint_step"] in (step + 1, step + 2)
    run.start()
    finish(run)
    return run, fault_time


def cluster_loses_power(cluster, workload, step):
    """All nodes and the driver are killed at once; on a new cluster the same spec resumes."""
    run, fault_time = start_and_pause(cluster, workload, "cluster", step, **NO_FAILURES)
    cluster.restart()
    run.kill_driver()
    run.start()
    finish(run)
    return run, fault_time


def node_drained(cluster, workload, step):
    """A node is drained with a notice of 30 seconds, and replaced."""
    run, fault_time = start_and_pause(cluster, workload, "drained", step, **NO_FAILURES)
    cluster.drain(OTHER_HOST, 30)
    time.sleep(2)
    run.end_pause(0)
    run.wait_for(lambda: run.failures, "notice of the drain")
    cluster.nodes[OTHER_HOST].kill()
    cluster.start(OTHER_HOST)
    finish(run)
    return run, fault_time


def storage_full(seconds):
    """The shared storage is full, for a while, or (None) until the job fails."""

    def inject(cluster, workload, step):
        # Longer than the storage is retried, or the other worker fails first.
        resources = {"max_failures": 0, "collective_timeout_s": 60}
        storage = {"storage_path": str(cluster.storage)}
        run, fault_time = start_and_pause(
            cluster, workload, "storage", step, resources=resources, checkpoints=storage
        )
        filler = cluster.fill_storage()
        run.end_pause(0)
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

    return inject


def restart_if_needed(cluster, number):
    """Restart a node that ended, or that does not rejoin the cluster after an outage."""
    deadline_s = time.monotonic() + RECONNECT_LIMIT_S
    while cluster.nodes[number].is_running():
        if cluster.num_alive() == len(cluster.hosts):
            return
        if time.monotonic() > deadline_s:
            break
        time.sleep(1)
    cluster.nodes[number].stop()
    cluster.start(number)


class Fault(NamedTuple):
    """``how``: description for the output; ``inject``: a function as described above."""

    how: str
    inject: Callable[[Any, Any, int], tuple[FaultRun, float]]


FAULTS = {
    "worker killed": Fault("SIGKILL to a worker", injected("kill")),
    "worker suspended": Fault("SIGSTOP to a worker", injected("stop")),
    "worker hangs": Fault("training thread sleeps forever", injected("hang")),
    "worker raises": Fault("exception in a worker", injected("error")),
    "worker terminated": Fault(
        "SIGTERM to a worker, no failures allowed", injected("term", **NO_FAILURES)
    ),
    "short outage": Fault("link down for 3 s", network_outage(SHORT_S)),
    "long outage": Fault("link down until noticed", network_outage(None)),
    "node loses power": Fault("link down, all its processes killed", node_loses_power),
    "slow network": Fault("tc: delay and loss, no failures allowed", slow_network),
    "driver killed": Fault("SIGKILL to the driver, resubmitted", driver_killed),
    "driver terminated": Fault("SIGTERM to the driver, resubmitted", driver_terminated),
    "cluster loses power": Fault(
        "all nodes and the driver killed, resubmitted", cluster_loses_power
    ),
    "node drained": Fault("drain notice of 30 s, node replaced", node_drained),
    "storage full": Fault("storage full for 3 s, no failures allowed", storage_full(SHORT_S)),
    "storage stays full": Fault(
        "storage full until the job fails, resubmitted", storage_full(None)
    ),
}
