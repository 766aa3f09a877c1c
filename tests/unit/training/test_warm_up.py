"""What is compiled is compiled before the first step, which changes nothing of the training."""

from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch
from support.training_runs import CPU
from torch._dynamo.utils import counters

from service.run.execution import Execution
from service.spec.loading import parse_spec
from service.training import trainer as trainer_module
from service.training import warm_up as warm_up_module
from service.training.compiling import forget_compiled
from service.training.distributed import World
from service.training.trainer import Trainer

NUM_STEPS = 2


@pytest.fixture(autouse=True)
def _quick_compiler(monkeypatch):
    """One of torch's own, which needs no C++ compiler; code is still made once for each graph."""
    quick = partial(torch.compile, backend="aot_eager", dynamic=False)
    monkeypatch.setattr(torch, "compile", lambda function, **_: quick(function))
    counters.clear()
    yield
    forget_compiled()


def make_spec(make_content, teacher, name, **training):
    batch = {"global_batch_size": 16, **training}
    sections = {
        "training": {"compile": "on", "ema_decay": 0.9, **batch},
        "losses": {"ce": {}, "kd": {}, "gkl": {}, "mlkd": {}},
        "augmentation": {"strong": {"rand_augment": {}}},
        "resources": {"num_workers": 1},
    }
    return parse_spec(make_content(name=name, teacher=teacher, **sections))


def train_some_steps(spec):
    """The weights and statistics after some steps, and how much was compiled in each."""
    spec.run_path.mkdir(parents=True)
    with Trainer(spec, World(0, 1, CPU, 1), lambda: None) as trainer:
        num_compiled = [counters["stats"]["unique_graphs"]]
        for batch in islice(trainer.remaining_batches(), NUM_STEPS):
            trainer.step(batch)
            num_compiled.append(counters["stats"]["unique_graphs"])
        student = trainer._learner.trainee.student
        return {name: one.clone() for name, one in student.state_dict().items()}, num_compiled


@pytest.mark.parametrize("micro_batch_size", [16, 8])
def test_steps_compile_nothing_and_train_the_same_weights(
    make_content, teacher, monkeypatch, micro_batch_size
):
    def make(name):
        return make_spec(make_content, teacher, name, micro_batch_size=micro_batch_size)

    warm, num_compiled = train_some_steps(make("warm"))
    assert num_compiled[0] > 0
    assert num_compiled == num_compiled[:1] * (NUM_STEPS + 1)

    forget_compiled()
    counters.clear()
    monkeypatch.setattr(trainer_module, "warm_up", lambda *_: None)
    cold, num_compiled = train_some_steps(make("cold"))
    assert num_compiled[0] == 0
    assert num_compiled[1] > 0
    for name, value in warm.items():
        assert torch.equal(value, cold[name]), name


def test_ranks_wait_for_each_other_for_as_long_as_a_decision(make_content, teacher, monkeypatch):
    """Not for as long as they do in a step."""
    waits_s = []

    def gather(value, world, timeout_s):
        waits_s.append(timeout_s)
        return [value]

    monkeypatch.setattr(warm_up_module, "gather_from_all", gather)
    spec = make_spec(make_content, teacher, "waiting")
    spec.run_path.mkdir(parents=True)
    with Trainer(spec, World(0, 1, CPU, 1), lambda: None):
        assert waits_s == [3600.0 + spec.resources.collective_timeout_s]


def test_an_eager_run_has_no_blank_step(make_content, teacher, monkeypatch):
    monkeypatch.setattr(warm_up_module, "_blank_step", None)
    sections = {"training": {"compile": "off"}, "resources": {"num_workers": 1}}
    spec = parse_spec(make_content(teacher=teacher, **sections))
    spec.run_path.mkdir(parents=True)
    with Trainer(spec, World(0, 1, CPU, 1), lambda: None) as trainer:
        assert trainer.progress.step == 0


def test_steps_of_several_passes_are_eager_whatever_was_decided_on_more_workers(
    make_content, teacher, monkeypatch
):
    """A pass of all images would take more memory than the run may."""
    monkeypatch.setattr(
        trainer_module,
        "decide_execution",
        lambda spec, *_: replace(Execution.plain(spec), compile_student=True),
    )
    several = {"micro_batch_size": 8, "max_activation_bytes": 1}
    spec = make_spec(make_content, teacher, "fewer-workers", **several)
    _, num_compiled = train_some_steps(spec)
    assert num_compiled == [0] * (NUM_STEPS + 1)
