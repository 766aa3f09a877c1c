"""A comparison that ran while MLflow was unreachable is sent afterwards."""

import mlflow
import pytest
from support.mlflow_runs import runs_by_name
from support.training_runs import run_alone

from data_pipeline.files import write_atomically
from jobs import sync
from service.compare.jobs import run_specs
from service.compare.loading import parse_comparison
from service.compare.spec import COMPARE_NAME
from service.result import collect_result
from service.run.folder import write_spec, write_tags
from service.trials.run_trackers import RunTrackers
from service.trials.source import FixedTrials

pytestmark = pytest.mark.slow

UNREACHABLE = "http://127.0.0.1:9"


def train_alone(compare):
    trackers = RunTrackers(UNREACHABLE, {}, parent=None)
    trials = FixedTrials(
        list(run_specs(compare).values()), trackers, lambda spec: {"comparison": "cmp"}
    )
    while (trial := trials.next()) is not None:
        number, spec = trial
        run_alone(spec)
        collect_result(spec.run_path, spec.schedule.num_epochs)
        trials.end(number, "finished", None)
    trackers.close()


def test_comparison_that_mlflow_missed_is_sent_once(make_compare_content, monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # The export of students is tested elsewhere.
    monkeypatch.setattr("service.publish.log_student", lambda *_: None)
    content = make_compare_content({"tracking": {"uri": UNREACHABLE}})
    compare = parse_comparison(content).compare
    compare.compare_path.mkdir(parents=True)
    write_spec(compare.as_job())
    write_atomically(compare.compare_path / COMPARE_NAME, compare.model_dump_json())
    write_tags(compare.compare_path, {"comparison": "cmp"})
    train_alone(compare)

    store = f"sqlite:///{tmp_path / 'store.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    for _ in range(2):
        assert sync.main([str(compare.base.checkpoints.storage_path)]) == 0
    runs = runs_by_name(store)
    names = [spec.name for spec in run_specs(compare).values()]
    assert sorted(runs) == sorted(["cmp", *names])
    parent = runs.pop("cmp")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert {run.info.status for run in [parent, *runs.values()]} == {"FINISHED"}
    client = mlflow.MlflowClient(store)
    for variant in ("base", "kd"):
        found = [runs[f"{variant}-seed-{seed}"].data.metrics["val/top1"] for seed in (0, 1)]
        (point,) = client.get_metric_history(parent.info.run_id, f"compare/{variant}/top1_mean")
        assert point.value == pytest.approx(sum(found) / 2)
    assert parent.data.tags["compare.kd"] in ("no more than noise", "more seeds needed")
    note = parent.data.tags["mlflow.note.content"]
    assert "top-1 %" in note
    assert "kd: " in note
    assert f"runs/{parent.info.run_id}/artifacts/compare.html?" in note
    assert all("/" in name for run in [parent, *runs.values()] for name in run.data.metrics)
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"compare.json", "runs.csv", "results.csv", "compare.html"} <= artifacts
