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
        ("schedule.gamma", "schedule.decay_factor"),
        ("schedule.pct_start", "schedule.rise_fraction"),
        ("schedule.eta_min", "schedule.final_fraction"),
        ("schedule.max_lr", "optimizer.learning_rate"),
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


@pytest.mark.parametrize(
    ("optimizer", "field", "text"),
    [
        (
            {"kind": "lars", "betas": [0.9, 0.99]},
            "betas",
            "is a field of kind adamw and lamb, not of lars; remove it, or set optimizer.kind to "
            "'adamw' or 'lamb'",
        ),
        (
            {"kind": "lamb", "momentum": 0.9},
            "momentum",
            "is a field of kind sgd and lars, not of lamb; remove it, or set optimizer.kind to "
            "'sgd' or 'lars'",
        ),
        (
            {"trust_coefficient": 0.001},
            "trust_coefficient",
            "is a field of kind lars, not of sgd; remove it, or set optimizer.kind to 'lars'",
        ),
        (
            {"kind": "lamb", "eps": 1e-6},
            "eps",
            "is not a field of the spec; did you mean optimizer.epsilon?",
        ),
        # AdamW has none, and no other section's would be meant.
        ({"kind": "adamw", "eps": 1e-6}, "eps", "is not a field of the spec; remove it or fix its"),
        ({"alpha": 0.1}, "alpha", "is not a field of the spec; remove it or fix its name"),
    ],
    ids=str,
)
def test_a_field_of_another_optimizer_says_of_which(make_content, optimizer, field, text):
    with pytest.raises(BadInputError) as caught:
        parse_spec(make_content() | {"optimizer": optimizer})
    found = {problem.where: str(problem) for problem in caught.value.problems}
    assert found[f"optimizer.{field}"].startswith(f"optimizer.{field}: {text}")


def test_a_field_of_another_temperature_says_of_which(make_content, teacher):
    losses = {"kd": {"temperature": {"kind": "linear", "start": 1, "end": 4, "scaled_max": 2}}}
    with pytest.raises(BadInputError) as caught:
        parse_spec(make_content(teacher=teacher, losses=losses))
    where = "losses.kd.temperature.scaled_max"
    assert [str(problem) for problem in caught.value.problems] == [
        f"{where}: is a field of kind teacher_max, not of linear; remove it, or set "
        "losses.kd.temperature.kind to 'teacher_max'"
    ]


@pytest.mark.parametrize(("keep", "shown"), [(50, "50"), (None, "null"), ([50], "[50]")])
def test_what_may_be_kept_of_logits_is_named(make_content, teacher, keep, shown):
    content = make_content(teacher={**teacher, "cache": {"keep": keep}})
    with pytest.raises(BadInputError) as caught:
        parse_spec(content)
    assert [str(problem) for problem in caught.value.problems] == [
        f"teacher.cache.keep: is {shown}; use 'float16', or {{\"top_k\": ...}}"
    ]
