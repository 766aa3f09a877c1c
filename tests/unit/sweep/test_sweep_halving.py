"""Successive halving on noisy curves, its default first rung, and changes when resumed."""

import json
import math

import numpy as np
import optuna
import pytest

from service.spec.errors import BadInputError
from service.sweep.halving import NoiseAwareHalving
from service.sweep.loading import load_sweep, parse_sweep
from service.sweep.plan import format_plan
from service.sweep.resuming import check_same_sweep
from service.sweep.spec import SWEEP_NAME
from service.sweep.study import Search, TrialEnd

NUM_EPOCHS, NUM_IMAGES = 9, 100
SPACE = {"losses.dtkd.weight": {"choice": [3.0, 1.0]}}


DEFAULTS = {"space": SPACE, "held_out": {"num_images": NUM_IMAGES}, "name": "halving"}


@pytest.fixture
def make_sweep(make_sweep_content):
    def make(**fields):
        sweep = parse_sweep(make_sweep_content(**{**DEFAULTS, **fields}))
        sweep.sweep_path.mkdir(parents=True, exist_ok=True)
        return sweep

    return make


@pytest.fixture
def check_resuming(make_sweep, make_sweep_content, tmp_path):
    """A function that starts a sweep with fields and checks whether others may resume it."""

    def check(started, **fields):
        sweep = make_sweep(**started)
        (sweep.sweep_path / SWEEP_NAME).write_text(sweep.model_dump_json())
        trial_path = sweep.sweep_path / "trials" / "trial-0000"
        (trial_path / "checkpoint_0000000004").mkdir(parents=True)
        (trial_path / "spec.json").write_text("{}")
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(make_sweep_content(**{**DEFAULTS, **fields})))
        check_same_sweep(load_sweep(path))

    return check


def run_trial(search, number, scores):
    for epoch, score in enumerate(scores, 1):
        if search.report(number, epoch, float(score)):
            search.end(number, TrialEnd("stopped", float(epoch)))
            return
    search.end(number, TrialEnd("finished", float(len(scores))))


def run(sweep, curves):
    search = Search(sweep)
    for curve in curves:
        suggestion = search.next()
        run_trial(search, suggestion.number, curve)
    return [record.state for record in search.records()]


def test_better_challenger_that_starts_slowly_finishes_and_wins(make_sweep):
    """Challengers are better at the end, and each equals the base within noise at first."""
    rng = np.random.default_rng(0)
    epochs = np.arange(1, NUM_EPOCHS + 1)
    shape = 1 - 0.5**epochs
    heights = [0.60, *[0.80] * 5]
    curves = [rng.binomial(NUM_IMAGES, height * shape) / NUM_IMAGES for height in heights]
    curves[0][0] = 0.6  # The base is lucky after the first epoch.
    states = run(make_sweep(budget={"trials": 6}), curves)
    finished = [number for number, state in enumerate(states) if state == "finished"]
    assert len(finished) >= 2
    assert max(finished, key=lambda number: curves[number][-1]) > 0


@pytest.mark.parametrize(("score", "state"), [(0.45, "finished"), (0.40, "stopped")])
def test_only_a_trial_worse_by_more_than_the_standard_error_is_stopped(make_sweep, score, state):
    """At 50 % and 100 images the standard error of a difference is 7 points."""
    curves = [[0.5] * NUM_EPOCHS] * 3 + [[score] * NUM_EPOCHS]
    assert run(make_sweep(budget={"trials": 4}), curves)[-1] == state


def test_rung_decides_only_when_enough_trials_reached_it(make_sweep):
    states = run(make_sweep(), [[0.9] * NUM_EPOCHS, *[[0.1] * NUM_EPOCHS] * 2])
    assert states == ["finished", "finished", "stopped"]


@pytest.mark.parametrize(
    ("num_images", "warmup_epochs", "min_epochs"), [(100, 0, 5), (500, 0, 3), (500, 6, 7)]
)
def test_default_min_epochs(make_sweep, num_images, warmup_epochs, min_epochs):
    # Only the validity of num_images depends on the data: 64 of its images can be held out.
    sweep = make_sweep(
        base={
            "losses": {"ce": {}, "dtkd": {}, "kd": {"weight": 1}, "warmup_epochs": 0},
            "schedule": {"num_epochs": 9, "milestones": [], "warmup_epochs": warmup_epochs},
        },
    )
    held_out = sweep.held_out.model_copy(update={"num_images": num_images})
    assert sweep.model_copy(update={"held_out": held_out}).min_epochs == min_epochs


def test_plan_warns_where_few_trials_can_finish_and_of_few_images(make_sweep):
    plan = format_plan(make_sweep(scheduler={"kind": "asha", "min_epochs": 1}))
    assert "at least 3 of 24 trials can finish" in plan
    # The difference of two accuracies of one half on 100 images: sqrt(2) x 5 points.
    assert "worse by no more than about 7.1 points of accuracy" in plan
    assert "fewer than a third" in plan
    assert "standard error of 5.0 points" in plan
    assert "fewer than a third" not in format_plan(make_sweep(scheduler={"kind": "none"}))


@pytest.mark.parametrize("kinds", [("asha", "none"), ("none", "asha")])
def test_scheduler_and_budget_may_change_when_resumed(make_sweep, check_resuming, kinds):
    """A trial worse at the rung is stopped under asha only; earlier trials stay as they are."""
    good, bad = [0.9] * NUM_EPOCHS, [0.1] * NUM_EPOCHS
    old = {"scheduler": {"kind": kinds[0]}, "budget": {"trials": 4}}
    new = {"scheduler": {"kind": kinds[1]}, "budget": {"trials": 5}}
    before = run(make_sweep(**old), [good, good, good, bad])
    check_resuming(old, **new)
    second = make_sweep(**new)
    ends = {"asha": "stopped", "none": "finished"}
    assert run(second, [bad]) == [*before, ends[kinds[1]]]
    assert before[-1] == ends[kinds[0]]
    assert Search(make_sweep(budget={"trials": 2})).next() is None


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"held_out": {"num_images": 64}}, "held_out.num_images"),
        ({"space": {"losses.dtkd.weight": {"linear": [0, 4]}}}, "space.losses.dtkd.weight.linear"),
        ({"base": {"seed": 5}}, "base.seed"),
    ],
)
def test_held_out_space_and_base_may_not_change(check_resuming, changed, where):
    with pytest.raises(BadInputError) as caught:
        check_resuming({}, **changed)
    assert where in [problem.where for problem in caught.value.problems]


def halving(values, num_images=None, direction="maximize", factor=2, rungs=(2,)):
    """Whether the last of trials with these values after each epoch must stop."""
    study = optuna.create_study(direction=direction)
    for scores in values:
        trial = study.ask()
        for epoch, score in enumerate(scores, 1):
            trial.report(score, epoch)
    pruner = NoiseAwareHalving(rungs, factor, num_images)
    return pruner.prune(study, study.get_trials()[-1])


@pytest.mark.parametrize(
    ("values", "must_stop"),
    [
        ([[0.1, 0.5], [0.1, 0.4]], True),
        ([[0.1, 0.5], [0.1, 0.5]], False),
        ([[0.1, 0.5], [0.1, 0.6]], False),
        # Fewer trials than the factor say nothing, nor does an evaluation that is not at a rung.
        ([[0.1, 0.4]], False),
        ([[0.9, 0.9], [0.1]], False),
        ([[0.1, 0.5, 0.9], [0.6, 0.6, 0.1]], False),
        # A score that is NaN is the worst at a rung, and counts for no other.
        ([[0.1, 0.5], [0.1, math.nan]], True),
        ([[0.1, 0.5], [math.nan]], False),
        ([[0.1, math.nan], [0.1, 0.4]], False),
        ([[0.1, 0.5], [0.1, 0.3], [0.1, 0.4]], True),
        ([[0.1, 0.5], [0.1, 0.6], [0.1, 0.7], [0.1, 0.6]], False),
        ([[0.1, 0.5], [0.1, 0.6], [0.1, 0.7], [0.1, 0.59]], True),
    ],
)
def test_half_of_the_trials_go_on_at_a_rung(values, must_stop):
    assert halving(values) == must_stop


def test_losses_are_minimized():
    assert halving([[9.0, 1.0], [9.0, 2.0]], direction="minimize")
    assert not halving([[9.0, 2.0], [9.0, 1.0]], direction="minimize")


def test_a_trial_without_an_evaluation_goes_on():
    assert not halving([[0.1, 0.5], []])


@pytest.mark.parametrize(("score", "must_stop"), [(0.64, False), (0.62, True)])
def test_worse_by_less_than_the_standard_error_is_no_reason_to_stop(score, must_stop):
    """sqrt((0.7 0.3 + 0.63 0.37) / 100) is 0.067; the difference is 0.06 or 0.08."""
    assert halving([[0.1, 0.7], [0.1, score]], num_images=100) == must_stop
