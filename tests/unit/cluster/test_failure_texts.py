"""A failure is named by its cause; what follows from it in other workers is not taken for it."""

import signal
import subprocess
import sys

import pytest
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from service.cluster.crashes import read_crash, record_crash
from service.cluster.failures import failure_text

DEAD = WorkerHealthCheckFailedError("the worker is dead", RuntimeError("it died"))
TIMED_OUT = RuntimeError("[gloo] Timed out waiting 3000ms for recv operation to complete")
CLOSED = RuntimeError("[gloo] Connection closed by peer")

PROGRAM = """
import ctypes, os, signal, sys
from pathlib import Path
from service.cluster.crashes import record_crash

with record_crash(Path(sys.argv[1]), int(sys.argv[2])):
    {how}
"""
DEATHS = {
    "abort": "os.abort()",
    "crash": "ctypes.string_at(0)",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
}


def die(run_path, rank, kind):
    """Let a process end as a worker with this rank."""
    program = PROGRAM.format(how=DEATHS[kind])
    command = [sys.executable, "-c", program, str(run_path), str(rank)]
    signals = {"abort": signal.SIGABRT, "crash": signal.SIGSEGV, "kill": signal.SIGKILL}
    result = subprocess.run(command, capture_output=True, check=False)
    assert result.returncode == -signals[kind]


def text_of(run_path, failures):
    return failure_text(WorkerGroupError("failed", failures), run_path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("abort", "aborted (SIGABRT)"),
        ("crash", "crashed in native code (Segmentation fault)"),
        ("kill", "was killed; if not on purpose, check its memory"),
    ],
)
def test_death_is_named_by_its_signal(tmp_path, kind, words):
    die(tmp_path, 1, kind)

    text = text_of(tmp_path, {1: DEAD})

    assert text.startswith("worker 1: its process")
    assert words in text
    assert ("crash_rank1.txt" in text) == (kind != "kill")


def test_crash_of_an_earlier_worker_is_kept_and_not_taken_for_the_next_ones(tmp_path):
    die(tmp_path, 0, "crash")
    die(tmp_path, 0, "kill")

    assert read_crash(tmp_path, 0) is None
    assert "Segmentation fault" in (tmp_path / "crash_rank0.txt").read_text()


def test_worker_that_ends_well_leaves_nothing(tmp_path):
    with record_crash(tmp_path, 0):
        assert (tmp_path / "crash_rank0.txt").exists()

    assert list(tmp_path.iterdir()) == []


def test_aborted_workers_are_no_cause_beside_another(tmp_path):
    """As on GPUs: a worker hangs, is killed, and NCCL's watchdog aborts the healthy ones."""
    die(tmp_path, 0, "abort")

    assert text_of(tmp_path, {0: DEAD, 1: DEAD}).startswith("worker 1: its process was killed")
    assert "SIGABRT" in text_of(tmp_path, {0: DEAD, 1: CLOSED})
    assert "SIGABRT" in text_of(tmp_path, {0: DEAD, 1: TIMED_OUT})


def test_broken_connections_are_no_cause_beside_a_timeout(tmp_path):
    text = text_of(tmp_path, {0: CLOSED, 1: TIMED_OUT})

    assert text == "worker 1: another worker did not respond for resources.collective_timeout_s"


def test_death_of_the_process_that_watches_is_named(tmp_path):
    assert failure_text(RayActorError(), tmp_path).startswith(
        "the process that watches the workers"
    )
