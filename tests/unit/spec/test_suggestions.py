"""Misspelt fields and values: what the user may have meant is named."""

import pytest

from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.sweep.loading import parse_sweep


def problems_of(parse, content):
    with pytest.raises(BadInputError) as caught:
        parse(content)
    return {problem.where: problem.remedy for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("losses.dkt", "losses.dtkd"),
        ("losses.dtk", "losses.dtkd"),
        ("losses.crossentropy", "losses.ce"),
        ("losses.dtkd.temperature", "losses.dtkd.base_temperature"),
        ("losses.dtkd.tau", "losses.dtkd.base_temperature"),
        ("losses.dtkd.T", "losses.dtkd.base_temperature"),
        ("losses.dtkd.alpha", "losses.dtkd.weight"),
        ("losses.dtkd.sharpnes", "losses.dtkd.sharpness"),
        ("losses.kd.temprature", "losses.kd.temperature"),
        ("losses.kd.tau", "losses.kd.temperature"),
        ("losses.kd.T", "losses.kd.temperature"),
        ("losses.kd.temp", "losses.kd.temperature"),
        ("losses.kd.base_temperature", "losses.kd.temperature"),
        ("losses.kd.beta", "losses.kd.weight"),
        ("losses.ce.gamma", "losses.ce.weight"),
        ("losses.dkd.gamma", "losses.dkd.weight"),
        ("losses.warmup", "losses.warmup_epochs"),
        ("losses.entropy_weight", "losses.entropy_weights"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("optimizer.weight_decy", "optimizer.weight_decay"),
        ("schedule.epochs", "schedule.num_epochs"),
        ("training.num_epochs", "schedule.num_epochs"),
        ("training.batch_size", "training.global_batch_size"),
        ("training.batchSize", "training.global_batch_size"),
        ("training.lr", "optimizer.learning_rate"),
        ("resources.workers", "resources.num_workers"),
        ("resources.num_gpus", "resources.gpu"),
        ("dataset.classes", "dataset.num_classes"),
        ("teacher.weights.path", "teacher.weights.source"),
        ("tracking.server", "tracking.uri"),
        ("sed", "seed"),
        ("epochs", "schedule.num_epochs"),
        ("storage_path", "checkpoints.storage_path"),
        ("augmentation.mixing.mixup", "augmentation.mixing.mixup_alpha"),
    ],
)
@pytest.mark.parametrize("of_sweep", [False, True])
def test_the_field_that_was_meant_is_named(make_sweep_content, wrong, right, of_sweep):
    content = make_sweep_content()
    section = content["base"]
    *parents, leaf = wrong.split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
    section[leaf] = 1

    if of_sweep:
        remedies = problems_of(parse_sweep, content)
        assert remedies[f"base.{wrong}"] == f"did you mean base.{right}?"
    else:
        remedies = problems_of(parse_spec, content["base"])
        assert remedies[wrong] == f"did you mean {right}?"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("budget.num_trials", "budget.trials"), ("trials", "budget.trials"), ("spaces", "space")],
)
def test_fields_of_a_sweep_are_suggested(make_sweep_content, wrong, right):
    section, _, leaf = wrong.rpartition(".")
    content = make_sweep_content(**({section: {leaf: 3}} if section else {leaf: 3}))
    assert problems_of(parse_sweep, content)[wrong] == f"did you mean {right}?"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("losses.dtkd.temperature", "losses.dtkd.base_temperature"),
        ("losses.kd.tau", "losses.kd.temperature"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("losses.kdd.weight", "losses.kd.weight"),
        ("losses.dtk.tau", "losses.dtkd.base_temperature"),
        ("optim.weight_decay", "optimizer.weight_decay"),
    ],
)
def test_paths_in_a_space_are_suggested(make_sweep_content, wrong, right):
    content = make_sweep_content(space={wrong: {"log": [1, 2]}})
    assert problems_of(parse_sweep, content)[f"space.{wrong}"] == f"did you mean {right}?"


def test_an_unknown_name_without_a_similar_field_has_no_suggestion(make_content):
    assert "did you mean" not in problems_of(parse_spec, make_content(xyzzy=1))["xyzzy"]


@pytest.mark.parametrize(
    ("value", "meant"),
    [("bf16", "bfloat16"), ("BF16", "bfloat16"), ("fp32", "float32"), ("fp16", "float16"),
     ("half", "float16"), ("amp", "auto"), ("float_32", "float32")],
)  # fmt: skip
def test_a_precision_under_another_name_is_suggested(make_content, value, meant):
    remedy = problems_of(parse_spec, make_content(training={"precision": value}))[
        "training.precision"
    ]
    assert "'float32', 'bfloat16', 'float16' or 'auto'" in remedy
    assert f"did you mean {meant!r}?" in remedy


def test_an_unknown_kind_is_suggested(make_content):
    remedy = problems_of(parse_spec, make_content(optimizer={"kind": "adam"}))["optimizer.kind"]
    assert "did you mean 'adamw'?" in remedy
