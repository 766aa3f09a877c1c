"""Faults at a given (rank, step) of a job's workers, each once: for tests only.

Ray Train loads the class that RAY_TRAIN_CALLBACKS names into each worker. DTKD_FAULTS is a folder
with plan.json, a list of {"rank", "step", "kind"}; a step is one of the whole run, counted from 0.
What has happened leaves a file ``fired-N`` there.
"""

import json
import os
import signal
import time
from pathlib import Path

from ray.train.v2._internal.execution.callback import WorkerCallback

HANG_S = 10_000.0


class FaultInjector(WorkerCallback):
    """Puts itself before every training step of the worker that it is loaded into."""

    def after_init_train_context(self):
        from service.training.trainer import Worker

        folder = Path(os.environ["DTKD_FAULTS"])
        step = Worker.step

        def step_after_faults(worker, batch):
            for number, fault in enumerate(read_plan(folder)):
                is_due = worker.progress.step == fault["step"]
                if is_due and worker._world.rank == fault["rank"] and fires(folder, number):
                    act(fault, folder, number)
            return step(worker, batch)

        Worker.step = step_after_faults


def read_plan(folder):
    path = folder / "plan.json"
    return json.loads(path.read_text()) if path.exists() else []


def write_plan(folder, *faults):
    """Make (rank, step, kind, seconds) the faults to come, and forget those that were."""
    for path in folder.iterdir():
        path.unlink()
    names = ("rank", "step", "kind", "seconds")
    entries = [dict(zip(names, fault, strict=False)) for fault in faults]
    (folder / "plan.json.partial").write_text(json.dumps(entries))
    (folder / "plan.json.partial").rename(folder / "plan.json")


def fires(folder, number):
    """Whether this is the first time; only one process is told so."""
    try:
        (folder / f"fired-{number}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def act(fault, folder, number):
    kind = fault["kind"]
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    elif kind == "hang":
        time.sleep(HANG_S)
    elif kind == "error":
        raise RuntimeError("injected")
    elif kind == "pause":
        # Whoever breaks something from outside does it now, and then lets the step go on.
        while not (folder / f"go-{number}").exists():
            time.sleep(0.02)
    else:
        raise ValueError(f"no such fault: {kind}")
