"""What MLflow has of a comparison is what its files have, however often it is sent."""

import math
from contextlib import closing

import mlflow
import pytest
from support.confirm_runs import write_result
from support.mlflow_runs import runs_by_name

from service.compare.jobs import run_specs
from service.compare.loading import parse_comparison
from service.compare.outcome import outcome_of
from service.compare.publish import publish_comparison
from service.compare.reading import RunRecords
from service.tracking.mlflow_run import MlflowRun
from service.trials.run_trackers import RunTrackers

KD = {"losses": {"ce": {}, "kd": {}}}
DKD = {"losses": {"ce": {}, "dkd": {}}}
TOP1 = {"base": (0.5, 0.52, 0.54), "kd": (0.6, 0.61, 0.66), "dkd": (0.55, 0.58, 0.57)}


@pytest.fixture
def publish(make_compare_content, monkeypatch, tmp_path):
    """A function that publishes a comparison whose runs have finished; returns its MLflow run."""
    store = f"sqlite:///{tmp_path / 'store.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    # The runs below it are published elsewhere.
    monkeypatch.setattr("service.compare.publish.child_runs", lambda _: [])

    def publish(**fields):
        compare = parse_comparison(make_compare_content(**fields)).compare
        compare.compare_path.mkdir(parents=True, exist_ok=True)
        specs = run_specs(compare)
        for key, spec in specs.items():
            if not spec.run_path.exists():
                write_result(spec, TOP1[key.variant.name][key.seed])
        outcome = outcome_of(compare, RunRecords(specs).read({}, {}), {})
        assert publish_comparison(outcome, {}, is_stopped=False) is not None
        return outcome, runs_by_name(store)["cmp"]

    return publish


def histories(run):
    client = mlflow.MlflowClient()
    names = run.data.metrics
    return {name: len(client.get_metric_history(run.info.run_id, name)) for name in names}


def test_latest_metrics_are_those_of_the_results_though_rows_come_and_go(publish):
    both = {"kd": KD, "dkd": DKD}
    for fields in (
        {"variants": {"kd": KD}, "seeds": [0, 1]},
        {"variants": both, "seeds": [0, 1, 2]},
        {"variants": {"kd": KD}, "seeds": [1, 2]},
    ):
        outcome, run = publish(**fields)
        for result in outcome.results:
            found = run.data.metrics
            prefix = f"compare/{result.variant}"
            assert found[f"{prefix}/num_seeds"] == len(result.top1)
            assert found[f"{prefix}/top1_mean"] == pytest.approx(result.mean)
            if not result.is_base:
                assert found[f"{prefix}/p_holm"] == pytest.approx(result.p_holm)
                assert found[f"{prefix}/interval_low"] == pytest.approx(result.interval[0])
        names = {f"compare.{r.variant}" for r in outcome.results if not r.is_base}
        tags = {t for t in run.data.tags if t.startswith("compare.")}
        assert tags == {*names, "compare.seeds"}
    gone = {n: v for n, v in run.data.metrics.items() if n.startswith("compare/dkd/")}
    assert len(gone) > 5
    assert all(math.isnan(value) for value in gone.values())


def test_the_same_outcome_adds_nothing(publish):
    variants = {"kd": KD, "dkd": DKD}
    publish(variants=variants)
    _, first = publish(variants={"kd": KD})
    _, second = publish(variants={"kd": KD})
    assert histories(first) == histories(second)
    assert second.data.tags.keys() == first.data.tags.keys()


def test_interrupted_run_is_killed_in_mlflow_and_runs_again(make_compare_content, tmp_path):
    store = f"sqlite:///{tmp_path / 'store.db'}"
    compare = parse_comparison(make_compare_content()).compare
    spec = next(iter(run_specs(compare).values()))
    spec.run_path.mkdir(parents=True)

    def status():
        return runs_by_name(store)[spec.name].info.status

    with closing(RunTrackers(store, {}, parent=None)) as trackers:
        trackers.start(spec, {})
    assert status() == "KILLED"
    # Whoever resumes the run finds it, and it runs again.
    assert MlflowRun(spec, store).run_id == runs_by_name(store)[spec.name].info.run_id
    assert status() == "RUNNING"
