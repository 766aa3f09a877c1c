"""A worker that hangs is found by the others between CPUs, before anything waits for a GPU.

There is no GPU here. Operations of the default process group take its part: in these runs it has a
long timeout, as NCCL has, and the gradients of a step are not exchanged by the host.
"""

import datetime
import json
import os
import time
from unittest import mock

import pytest
import torch.distributed as dist
from support.training_runs import CPU, run_ranks

from service.spec.loading import parse_spec
from service.training import learner, state
from service.training.data import WorkerData
from service.training.distributed import World
from service.training.trainer import Trainer, train
from service.training.update import WeightUpdate

SHORT_TIMEOUT_S, LONG_TIMEOUT_S = 3, 60
HUNG_STEP = 2


def hang(outcome_path):
    while not outcome_path.exists():
        time.sleep(0.05)
    os._exit(0)


def hang_in_step(outcome_path):
    step = Trainer.step

    def step_or_hang(self, batch):
        if self.progress.step == HUNG_STEP:
            hang(outcome_path)
        return step(self, batch)

    Trainer.step = step_or_hang


def hang_in_last_batch(outcome_path):
    val_batches = WorkerData.val_batches

    def batches_or_hang(self, chosen):
        *batches, _ = val_batches(self, chosen)
        yield from batches
        hang(outcome_path)

    WorkerData.val_batches = batches_or_hang


def hang_on_storage(outcome_path):
    state.newest_checkpoint = lambda _: hang(outcome_path)


HANGS = {
    "step": (1, hang_in_step),
    "evaluation": (1, hang_in_last_batch),
    "restore": (0, hang_on_storage),
}


def run_rank(rank, content, store, where, outcome_path):
    """Train as one of two; the worker that does not hang leaves how and when it failed."""
    timeout = datetime.timedelta(seconds=LONG_TIMEOUT_S)
    store_address = f"file://{store}"
    dist.init_process_group(
        "gloo", init_method=store_address, rank=rank, world_size=2, timeout=timeout
    )
    hanging_rank, start_hanging = HANGS[where]
    if rank == hanging_rank:
        start_hanging(outcome_path)
    start_s = time.monotonic()
    check = WeightUpdate.check
    with (
        mock.patch.object(learner, "wrap_ddp", lambda trainee, _: trainee),
        mock.patch.object(WeightUpdate, "check", autospec=True, side_effect=check) as updates,
    ):
        try:
            train(parse_spec(content), World(rank, 2, CPU, 1))
        except Exception as error:
            text = str(error)
    outcome = {"text": text, "seconds": time.monotonic() - start_s, "updates": updates.call_count}
    outcome_path.write_text(json.dumps(outcome))
    os._exit(0)


@pytest.mark.parametrize("where", HANGS)
def test_hanging_worker_is_found_before_a_gpu_is_waited_for(make_content, tmp_path, where):
    content = make_content(resources={"collective_timeout_s": SHORT_TIMEOUT_S})
    parse_spec(content).run_path.mkdir(parents=True)
    outcome_path = tmp_path / "outcome.json"

    run_ranks(run_rank, (content, tmp_path / "store", where, outcome_path), 2)

    outcome = json.loads(outcome_path.read_text())
    assert "Timed out" in outcome["text"]
    assert outcome["seconds"] < LONG_TIMEOUT_S / 2
    if where == "step":
        # The update would have waited for the gradients of both.
        assert outcome["updates"] == HUNG_STEP
