"""A node that compiles for longer than workers wait for each other in a step."""

import time
from functools import partial

import torch
import torch.distributed as dist
from support.training_runs import CPU, run_ranks

from service.run.journal import JOURNAL_NAME, read_events
from service.spec.loading import parse_spec
from service.training.distributed import World
from service.training.trainer import train

TIMEOUT_S, COMPILE_S = 6, 10.0


def compile_slowly(rank):
    """A backend of torch without a C++ compiler; on rank 1 it takes long."""
    eager = partial(torch.compile, backend="aot_eager", dynamic=False)

    def compiled(function, **_):
        forward, is_first = eager(function), True

        def call(images):
            nonlocal is_first
            if is_first and rank == 1:
                time.sleep(COMPILE_S)
            is_first = False
            return forward(images)

        return call

    torch.compile = compiled


def run_rank(rank, content, store):
    compile_slowly(rank)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    train(parse_spec(content), World(rank, 2, CPU, 1))
    dist.destroy_process_group()


def test_workers_wait_for_a_node_that_compiles(make_content, tmp_path):
    content = make_content(
        training={"compile": "on", "micro_batch_size": None},
        resources={"collective_timeout_s": TIMEOUT_S},
        schedule={"num_epochs": 1, "milestones": []},
    )
    spec = parse_spec(content)
    spec.run_path.mkdir(parents=True)
    run_ranks(run_rank, (content, tmp_path / "store"), 2)
    events = list(read_events(spec.run_path / JOURNAL_NAME))
    assert any("val/top1" in str(event) for event in events)
