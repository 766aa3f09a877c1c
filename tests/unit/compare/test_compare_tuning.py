"""Every row is tuned on held-out images with the same number of trials, then compared on val."""

import csv
import json

import pytest

from service.compare.job import run_comparison
from service.compare.loading import parse_comparison
from service.compare.tuned_space import tuned_rows, tuned_space
from service.compare.tuning import found_settings
from service.run.folder import read_spec
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec

TUNED = {"trials": 2, "held_out": {"num_images": 64}}


def space_of(make_content, teacher, **losses):
    """The ends of each range, by path."""
    content = make_content(teacher=teacher, losses={"ce": {}, **losses})
    return {path: p.log for path, p in tuned_space(parse_spec(content)).items()}


def test_space_has_weights_and_temperatures_of_the_losses_with_a_teacher(make_content, teacher):
    losses = {"kd": {"weight": 2, "temperature": 0.5}, "dtkd": {"base_temperature": 10}}
    assert space_of(make_content, teacher, **losses) == {
        "losses.kd.weight": (0.5, 8),
        "losses.kd.temperature": (0.5, 8),
        "losses.dtkd.weight": (0.75, 12),
        "losses.dtkd.base_temperature": (1, 10),
    }


def test_space_has_no_rules_of_temperatures_and_no_inactive_losses(make_content, teacher):
    schedule = {"kind": "linear", "start": 8, "end": 1}
    losses = {"kd": {"weight": 1, "temperature": schedule}, "dkd": {"weight": 0}}
    assert space_of(make_content, teacher, **losses) == {"losses.kd.weight": (0.25, 4)}
    assert space_of(make_content, teacher) == {}


def test_parts_of_a_loss_are_tuned_in_place_of_its_weight(make_content, teacher):
    found = space_of(make_content, teacher, dkd={"alpha": 1, "beta": 8})
    assert found == {
        "losses.dkd.alpha": (0.25, 4),
        "losses.dkd.beta": (2, 32),
        "losses.dkd.temperature": (1, 8),
    }


def test_searches_cost_the_same_and_do_not_read_val(make_compare_content):
    content = make_compare_content(tuned=TUNED, variants={"kd": {"losses.kd": {}}})
    compare = parse_comparison(content).compare
    ((variant, sweep),) = tuned_rows(compare).items()
    assert variant.label == "kd"
    assert (sweep.budget.trials, sweep.scheduler.kind) == (2, "none")
    assert sweep.held_out.num_images == 64
    assert sweep.sweep_path == compare.compare_path / "tuning" / "kd"


@pytest.fixture
def submit(here, make_compare_content, capsys):
    def submit(**fields):
        loaded = parse_comparison(make_compare_content(tuned=TUNED, **fields))
        return run_comparison(loaded), loaded.compare, capsys.readouterr().out

    return submit


def test_tuned_comparison_trains_the_best_settings(here, submit):
    here.stop_at = "trial-0001"
    assert submit()[0] == 3
    here.stop_at, here.started = None, []
    exit_status, compare, output = submit()
    assert exit_status == 0
    assert here.started == [
        "trial-0001",
        *(f"{v}-seed-{s}" for s in (0, 1) for v in ("base", "kd")),
    ]

    trials = sorted(compare.compare_path.glob("tuning/kd/trials/trial-*"))
    scores = {}
    for path in trials:
        evaluations = [e for e in read_events(path / JOURNAL_NAME) if e.kind == "evaluation"]
        groups = {name.partition("/")[0] for event in evaluations for name in event.values}
        assert groups == {"held_out", "system"}
        scores[path] = evaluations[-1].values["held_out/top1"]
    best = read_spec(max(trials, key=scores.get)).losses.kd
    for seed in (0, 1):
        spec = read_spec(compare.compare_path / "runs" / f"kd-seed-{seed}")
        assert (spec.losses.kd, spec.dataset.held_out) == (best, None)
    with (compare.compare_path / "results.csv").open() as file:
        base, kd = csv.DictReader(file)
    assert json.loads(kd["tuned"])["losses.kd.weight"] == best.weight
    assert base["tuned"] == "{}"
    assert "base: nothing to tune" in output
    assert f"kd: best of 2 trials: losses.kd.weight = {best.weight:.4g}" in output
    settings = {variant.name: point for variant, point in found_settings(compare).items()}
    assert settings["kd"]["losses.kd.temperature"] == best.temperature

    here.started = []
    assert submit(seeds=[1, 2])[0] == 0
    assert here.started == ["base-seed-2", "kd-seed-2"]
    with pytest.raises(BadInputError) as caught:
        submit(variants={"kd": {"losses": {"ce": {}, "kd": {"weight": 1.5}}}})
    (problem,) = caught.value.problems
    assert problem.where == "variants.kd"
    assert problem.wrong.startswith("losses.kd.weight differs from runs of the comparison")


def test_row_with_the_default_losses_is_tuned_and_resumed(here, submit):
    variants = {"dtkd": {"losses": None}}
    assert submit(variants=variants)[0] == 0
    here.started = []
    assert submit(variants=variants)[0] == 0
    assert here.started == []


def test_row_without_settings_is_not_trained(here, submit):
    here.failing = {"trial-0000", "trial-0001"}
    exit_status, _, output = submit()
    assert exit_status == 1
    assert here.started[2:] == ["base-seed-0", "base-seed-1"]
    assert "kd: its search has not ended, or no trial has finished" in output
