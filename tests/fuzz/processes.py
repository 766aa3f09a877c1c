"""Runs a target in a process of its own, which an input may end without ending the others."""

import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from fuzz.campaign import Result, Summary, run_input
from fuzz.guards import Guard
from fuzz.outcomes import Outcome
from fuzz.targets import TARGETS

# Longer than the guard waits, and than a target needs to start.
ANSWER_LIMIT_S = 60.0
# In memory: files are written for each input.
MEMORY_FOLDER = "/dev/shm"


class Plan(NamedTuple):
    """How many inputs of a target to run, and until which time of time.monotonic()."""

    target: str
    seed: int
    num_inputs: int | None
    end_s: float | None


@contextlib.contextmanager
def target_folder() -> Iterator[Path]:
    """An empty folder for a target's files, removed with all that is in it."""
    parent = MEMORY_FOLDER if os.access(MEMORY_FOLDER, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=parent) as folder:
        yield Path(folder).resolve()


def run_plan(plan: Plan, kept_path: Path) -> Summary:
    """Run a target's inputs in order; after one that ends the process, in another process."""
    summary = Summary(plan.target, kept_path)
    index, is_done = 0, False
    while not is_done:
        with target_folder() as folder:
            before = summary.num_inputs
            is_done = _run_process(plan, index, folder, summary)
            index += summary.num_inputs - before
    return summary


def _run_process(plan: Plan, first: int, folder: Path, summary: Summary) -> bool:
    """Run inputs from number ``first`` on; False if the process ended before all were run."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(plan, first, folder, sender))
    process.start()
    sender.close()
    data = b""
    try:
        while receiver.poll(ANSWER_LIMIT_S):
            message = receiver.recv()
            if message is None:
                return True
            if isinstance(message, bytes):
                data = message
            else:
                summary.add(data, message)
        fault = f"HangError: no answer within {ANSWER_LIMIT_S:g} s"
    except EOFError:
        process.join()
        fault = f"the process ended with status {process.exitcode}"
    finally:
        process.kill()
        process.join()
    assert data, f"{plan.target} does not start: {fault}"
    summary.add(data, Result("failed", 0.0, 0, [Outcome("process", "failed", fault)]))
    return False


def _work(plan: Plan, first: int, folder: Path, sender: Connection) -> None:
    """Send each input before it is run, and then its result; None at the end."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.chdir(folder)
    target, guard = TARGETS[plan.target](folder), Guard(folder)
    index = first
    while (plan.num_inputs is None or index < plan.num_inputs) and (
        plan.end_s is None or time.monotonic() < plan.end_s
    ):
        data = target.input(plan.target, plan.seed, index)
        sender.send(data)
        sender.send(run_input(target, data, guard))
        index += 1
    sender.send(None)
