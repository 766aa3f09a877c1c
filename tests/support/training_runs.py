"""Training runs without Ray: one worker in this process, or several processes."""

import multiprocessing
from dataclasses import asdict
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from service.run.journal import JOURNAL_NAME, read_events
from service.spec.loading import parse_spec
from service.training.checkpoint import newest_checkpoint, read_metadata
from service.training.distributed import World
from service.training.trainer import Trainer, train

CPU = torch.device("cpu")
# Slow imports of a worker; the optimizer and DDP import torch._dynamo.
PRELOADED = ["torch._dynamo", "service.training.trainer"]


class InterruptedRunError(Exception):
    """Simulates a killed worker."""


def run_alone(spec, stop_after_epochs=None):
    """Train with one worker in this process; interrupt it after this many epochs of this call."""
    spec.run_path.mkdir(parents=True, exist_ok=True)
    finish_epoch, num_done = Trainer.finish_epoch, 0

    def finish_or_interrupt(trainer):
        nonlocal num_done
        finish_epoch(trainer)
        num_done += 1
        if num_done == stop_after_epochs:
            raise InterruptedRunError

    with mock.patch.object(Trainer, "finish_epoch", finish_or_interrupt):
        train(spec, World(0, 1, CPU, 1))


def run_rank(rank, content, world_size, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    train(parse_spec(content), World(rank, world_size, CPU, 1))
    dist.destroy_process_group()


def run_ranks(function, arguments, world_size):
    """Call function(rank, *arguments) in a process per rank, forked after torch was imported."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    mp.start_processes(function, arguments, nprocs=world_size, start_method="forkserver")


def run_together(content, world_size, tmp_path):
    parse_spec(content).run_path.mkdir(parents=True, exist_ok=True)
    store = tmp_path / f"store{world_size}"
    run_ranks(run_rank, (content, world_size, store), world_size)


def final(spec):
    path = newest_checkpoint(spec.run_path)
    return load_file(path / "student.safetensors"), asdict(read_metadata(path).progress)


def stop_at(steps, monkeypatch_setattr):
    """Interrupt the worker before each of ``steps``, counted over the run, one per call."""
    step, remaining = Trainer.step, list(steps)

    def step_or_interrupt(trainer, batch):
        if remaining and trainer.progress.step + 1 == remaining[0]:
            remaining.pop(0)
            raise InterruptedRunError
        return step(trainer, batch)

    monkeypatch_setattr(Trainer, "step", step_or_interrupt)


def loss_series(spec):
    """The losses of a run's events in the order of its journal, without starts and checkpoints."""
    events = read_events(spec.run_path / JOURNAL_NAME)
    return [
        (e.kind, e.step, e.values.get("train/loss"), e.values.get("train/dtkd"))
        for e in events
        if e.kind in ("interval", "evaluation", "teacher")
    ]
