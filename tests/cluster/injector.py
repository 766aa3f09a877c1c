"""Injects faults at given ranks and steps of a job's workers, each once; for tests only.

Ray Train loads the class that RAY_TRAIN_CALLBACKS names into each worker. DTKD_FAULTS is a folder
with plan.json, a list of {"rank", "step", "kind"}; steps are counted from 0 over the entire run.
An injected fault creates a file ``fired-N`` there.
"""

import ctypes
import json
import os
import signal
import time
from pathlib import Path

import torch
from ray.train.v2._internal.execution.callback import WorkerCallback

HANG_S = 10_000.0


class FaultInjector(WorkerCallback):
    """Runs before every training step of the worker that loads it."""

    def after_init_train_context(self):
        from service.training.trainer import Trainer

        folder = Path(os.environ["DTKD_FAULTS"])
        step = Trainer.step

        def step_after_faults(trainer, batch):
            for number, fault in enumerate(read_plan(folder)):
                is_due = trainer.progress.step == fault["step"]
                if is_due and trainer._world.rank == fault["rank"] and claim(folder, number):
                    inject(fault["kind"], folder, number)
            return step(trainer, batch)

        Trainer.step = step_after_faults


def read_plan(folder):
    path = folder / "plan.json"
    return json.loads(path.read_text()) if path.exists() else []


def write_plan(folder, *faults):
    """Replace the plan by these faults: (rank, step, kind)."""
    for path in folder.iterdir():
        path.unlink()
    entries = [dict(zip(("rank", "step", "kind"), fault, strict=True)) for fault in faults]
    (folder / "plan.json.partial").write_text(json.dumps(entries))
    (folder / "plan.json.partial").rename(folder / "plan.json")


def claim(folder, number):
    """Whether the fault was not injected before; True for one process only."""
    try:
        (folder / f"fired-{number}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def inject(kind, folder, number):
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    elif kind == "abort":
        os.abort()
    elif kind == "crash":
        ctypes.string_at(0)
    elif kind == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    elif kind == "hang":
        time.sleep(HANG_S)
    elif kind == "error":
        raise RuntimeError("injected")
    elif kind == "pause":
        # A fault from outside is injected now; ``end_pause`` then lets the step continue.
        while not (folder / f"continue-{number}").exists():
            time.sleep(0.02)
    else:
        raise ValueError(f"unknown fault: {kind}")
