"""A run with the parts of newer recipes, killed within epochs and resumed, equals a plain one."""

import pytest
from comparison import assert_same_result
from support.training_runs import InterruptedRunError, run_alone, stop_at

from service.spec.loading import parse_spec


def test_run_killed_within_epochs_loses_nothing(make_content, monkeypatch):
    sections = {
        "student": {"model": "cifar:resnet8"},
        "optimizer": {"kind": "lamb"},
        "schedule": {"num_epochs": 2, "kind": "one_cycle"},
        "augmentation": {"repeats": 4, "mixing": {"mixup_alpha": 0.4, "cutmix_alpha": 1.0}},
        "training": {"checkpoint_activations": True},
        "checkpoints": {"every_steps": 1},
    }
    reference = parse_spec(make_content(name="reference", **sections))
    killed = parse_spec(make_content(name="killed", **sections))
    run_alone(reference)
    killed_at = (3, 6)
    stop_at(killed_at, monkeypatch.setattr)
    for _ in killed_at:
        with pytest.raises(InterruptedRunError):
            run_alone(killed)
    run_alone(killed)
    assert_same_result(killed, reference)
