"""A step whose outcome is read one step later ends as one whose outcome is read at once."""

import pytest
import torch
from support.training_runs import final, run_alone
from test_nonfinite import make_gradient_infinite

from service.run.journal import JOURNAL_NAME, read_events
from service.spec.loading import parse_spec
from service.training.checkpoint import newest_checkpoint
from service.training.trainer import Trainer

SECTIONS = {
    "checkpoints": {"every_steps": 3, "num_to_keep": 9, "every_minutes": None},
    "tracking": {"log_every_steps": 2},
    # The rate changes with the second epoch: steps that are rolled back to had another one.
    "schedule": {"num_epochs": 2, "milestones": [1]},
    "augmentation": {"mixing": {"mixup_alpha": 0.2}},
    "resources": {"num_workers": 1},
}
TIMED = ("speed/", "system/")


def result(spec):
    """Weights, progress, state, and what was reported, in the order of the events of each kind."""
    path = newest_checkpoint(spec.run_path)
    events = [
        (event.kind, event.step, {k: v for k, v in event.values.items() if not k.startswith(TIMED)})
        for event in read_events(spec.run_path / JOURNAL_NAME)
        if event.kind in ("interval", "evaluation")
    ]
    notes = [event.text for event in read_events(spec.run_path / JOURNAL_NAME)]
    skipped = [text for text in notes if "skipped" in text]
    (state,) = torch.load(path / "per_rank_state.pt")
    tensors = [*state["statistics"], *state["ema_statistics"]]
    return *final(spec), tensors, events, skipped


@pytest.mark.parametrize("policy", ["skip", "roll_back"])
@pytest.mark.parametrize("steps", [{0}, {3}, {3, 4}, {4, 5}, {7}, {1, 2, 3, 4}])
def test_late_outcome_is_that_of_a_step_that_was_waited_for(
    make_content, monkeypatch, policy, steps
):
    make_gradient_infinite(steps, monkeypatch.setattr)
    training, found = {"on_nonfinite": policy, "ema_decay": 0.9}, []
    for name in ("late", "at_once"):
        spec = parse_spec(make_content(name=name, training=training, **SECTIONS))
        run_alone(spec)
        found.append(result(spec))
        step = Trainer.step

        def step_and_wait(trainer, batch, step=step):
            output = step(trainer, batch)
            trainer._step.settle(trainer.progress)
            return output

        monkeypatch.setattr(Trainer, "step", step_and_wait)
    (weights, progress, tensors, events, skipped), (*expected,) = found
    assert all(torch.equal(weights[name], expected[0][name]) for name in weights)
    assert progress == expected[1]
    assert all(map(torch.equal, tensors, expected[2]))
    assert repr(events) == repr(expected[3])
    assert skipped == expected[4]
    assert len(skipped) == len(steps)
