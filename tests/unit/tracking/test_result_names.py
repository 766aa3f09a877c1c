"""Names of a run's final metrics in MLflow."""

from types import SimpleNamespace

import pytest

from service.run.progress import Progress
from service.tracking.mlflow_run import MlflowRun


@pytest.mark.parametrize(
    ("evaluated", "name"),
    [("val", "result/last_top1"), ("held_out", "result/held_out_last_top1")],
)
def test_accuracy_on_held_out_images_has_its_own_name(evaluated, name):
    logged = []
    run = MlflowRun.__new__(MlflowRun)
    run.run_id = "run"
    run.client = SimpleNamespace(log_batch=lambda _, metrics: logged.extend(metrics))
    run._spec = SimpleNamespace(dataset=SimpleNamespace(evaluated=evaluated))
    run.log_result(Progress(last_top1=0.5), time_ms=0)
    assert [m.key for m in logged if m.value == 0.5] == [name]
