import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from service.run.journal import JOURNAL_NAME, Journal
from service.run.progress import Progress
from service.run.result import RunResult
from service.sweep.comparison import Comparison, read_comparison, welch
from service.sweep.confirm import compare, confirm_specs, confirm_tags, remove_outdated
from service.sweep.loading import parse_sweep
from service.trials.source import FixedTrials

BEST = {0: 0.82, 1: 0.84, 2: 0.83}
DEFAULT = {0: 0.80, 1: 0.81, 2: 0.77}


def comparison(best=None, default=None, maximizes=True):
    best, default = best or BEST, default or DEFAULT
    difference = float(np.mean([*best.values()]) - np.mean([*default.values()]))
    values = welch([*best.values()], [*default.values()])
    return Comparison("val/top1", maximizes, 24, best, default, difference, *values)


def test_interval_and_p_value_are_welchs():
    """Against the formulas of Welch and Satterthwaite, written out."""
    first, second = np.array([*BEST.values()]), np.array([*DEFAULT.values()])
    errors = [values.var(ddof=1) / len(values) for values in (first, second)]
    spread = math.sqrt(sum(errors))
    freedom = sum(errors) ** 2 / sum(e**2 / 2 for e in errors)
    t = (first.mean() - second.mean()) / spread
    reach = stats.t.ppf(0.975, freedom) * spread
    interval, p_value = welch(first, second)

    assert p_value == pytest.approx(2 * stats.t.sf(abs(t), freedom))
    difference = first.mean() - second.mean()
    assert interval == pytest.approx((difference - reach, difference + reach))


def test_one_seed_gives_no_interval():
    assert welch([0.8], [0.7]) == (None, None)
    assert "more seeds are needed" in comparison({0: 0.8}, {0: 0.7}).verdict


def test_difference_is_noise_unless_it_is_significant():
    assert comparison().verdict == "no more than noise"
    clear = {0: 0.91, 1: 0.92, 2: 0.90}
    assert "are better" in comparison(best=clear).verdict
    assert "WORSE" in comparison(best=clear, maximizes=False).verdict


def test_table_has_mean_deviation_and_number_of_settings_tried():
    text = str(comparison())

    assert "best     83.00       1.00       82.00, 84.00, 83.00" in text
    assert "default  79.33       2.08       80.00, 81.00, 77.00" in text
    assert "that of 24 settings tried" in text


def test_confirmation_runs_train_on_all_images_and_evaluate_val_once(make_sweep_content):
    sweep = parse_sweep(make_sweep_content(base={"seed": 7}))
    specs = confirm_specs(sweep, sweep.base, {"losses.dtkd.weight": 1.5}, num_seeds=2)

    assert set(specs) == {(role, seed) for role in ("best", "default") for seed in (7, 8)}
    assert all(spec.dataset.held_out is None for spec in specs.values())
    assert all(spec.evaluation.every_epochs == 9 for spec in specs.values())
    assert {spec.seed for spec in specs.values()} == {7, 8}
    weights = [specs[role, 7].effective_losses().dtkd.weight for role in ("best", "default")]
    assert weights == [1.5, 3.0]
    assert len({spec.run_path for spec in specs.values()}) == 4


def test_comparison_is_stored_with_the_sweep(tmp_path):
    comparison().write(tmp_path)
    alone = comparison({0: 0.8}, {0: 0.7})

    assert read_comparison(tmp_path) == comparison()
    alone.write(tmp_path)
    assert read_comparison(tmp_path) == alone
    assert read_comparison(tmp_path / "missing") is None


def test_runs_with_other_best_settings_are_not_reused(make_sweep_content):
    sweep = parse_sweep(make_sweep_content())
    for weight in (1.5, 2.5):
        specs = confirm_specs(sweep, sweep.base, {"losses.dtkd.weight": weight}, num_seeds=1)
        remove_outdated(specs.values())
        trials = FixedTrials(list(specs.values()), None, confirm_tags)
        pending = [spec.name for spec in specs.values() if not spec.run_path.exists()]
        assert not trials.are_finished
        # Both share the run of the default settings, but not that of the best settings.
        assert pending == (["best-seed-0", "default-seed-0"] if weight == 1.5 else ["best-seed-0"])
        for spec in specs.values():
            spec.run_path.mkdir(parents=True, exist_ok=True)
            (spec.run_path / "spec.json").write_text(spec.model_dump_json())


def finish(spec, *scores):
    """A finished run with these accuracies after its evaluations."""
    spec.run_path.mkdir(parents=True)
    journal = Journal(spec.run_path / JOURNAL_NAME, 10**6)
    for epoch, score in enumerate(scores):
        journal.append("evaluation", epoch + 1, epoch, {"val/top1": score})
    journal.append("note", 0, 0, {})
    RunResult(Progress(step=9, epoch=9), "val", 1.0, 0.0, 1).write(spec.run_path)


def test_seeds_that_finished_with_both_settings_are_compared(make_sweep_content):
    sweep = parse_sweep(make_sweep_content(base={"seed": 4}))
    specs = confirm_specs(sweep, sweep.base, {"losses.dtkd.weight": 1.5}, num_seeds=4)
    assert compare(sweep, specs, 12) is None
    for seed, best, default in ((4, 0.8, 0.7), (6, 0.9, 0.5)):
        finish(specs["best", seed], 0.1, best)
        finish(specs["default", seed], 0.95, default)
    # A run with each of the other seeds failed.
    finish(specs["best", 5], 0.99)
    finish(specs["default", 7], 0.99)
    found = compare(sweep, specs, 12)
    assert found.best == {4: 0.8, 6: 0.9}
    assert found.default == {4: 0.7, 6: 0.5}
    assert found.difference == pytest.approx(0.85 - 0.6)
    assert found.left_out == (5, 7)
    assert (found.num_tried, found.metric, found.maximizes) == (12, "val/top1", True)
    assert (found.interval, found.p_value) == welch([0.8, 0.9], [0.7, 0.5])
    assert "left out, because a run with it failed: seed 5, 7" in str(found)


def test_best_length_and_the_sweeps_resources_are_those_of_its_runs(make_sweep_content):
    content = make_sweep_content(base={"tracking": {"register_as": "m", "promote": {"alias": "a"}}})
    resources = {"num_workers": 1, "cpus_per_worker": 1}
    sweep = parse_sweep({**content, "resources": resources})
    best = {"schedule.num_epochs": 5}
    specs = confirm_specs(sweep, sweep.base, best, num_seeds=1)
    assert specs["best", 0].evaluation.every_epochs == 5
    assert specs["default", 0].evaluation.every_epochs == 9
    assert {spec.resources.max_workers for spec in specs.values()} == {1}
    for spec in specs.values():
        assert (spec.tracking.register_as, spec.tracking.promote) == (None, None)
        assert spec.run_path.parent == sweep.sweep_path / "confirm"


@pytest.mark.parametrize(("p_value", "verdict"), [(0.05, "no more than noise"), (0.049, "better")])
def test_significance_is_five_percent(p_value, verdict):
    found = dataclasses.replace(comparison(), p_value=p_value)
    assert verdict in found.verdict


def test_text_of_a_loss_is_not_in_percent():
    losses = comparison({0: 1.5, 1: 1.7}, {0: 2.0, 1: 2.25}, maximizes=False)
    text = str(losses)
    assert "best     1.60" in text
    assert "difference -0.52 (95 % interval" in text
    low, high = losses.interval
    assert f"{low:+.2f} to {high:+.2f}" in text
    assert f"p = {losses.p_value:.3f})" in text
    alone = str(comparison({0: 0.8}, {0: 0.7}))
    assert "best     80.00       -" in alone
    assert "interval" not in alone


def test_scores_without_variance_have_no_interval():
    assert welch([0.5, 0.5], [0.6, 0.6]) == (None, None)
    interval, p_value = welch([0.5, 0.5], [0.6, 0.7])
    assert interval is not None
    assert p_value is not None
    assert welch([0.5], [0.6, 0.7]) == (None, None)
