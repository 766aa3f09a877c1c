"""A view of an experiment's runs with their accuracies, which the UI has under Views.

By default its table of runs shows no metric. The tag is what the UI of MLflow 3.17 stores for a
view that somebody saves; what another release does not know of it has no effect.
"""

import json
import time

VIEW_TAG = "mlflow.sharedViewState.accuracy"
VIEW_NAME = "Accuracy"
ATTRIBUTES = ("Dataset", "Source", "Models")
METRICS = (
    "result/last_top1",
    "result/best_top1",
    "result/held_out_last_top1",
    "teacher/top1",
    "val/ece",
    "eval/top1",
)


def accuracy_view() -> dict[str, str]:
    """The tag of an experiment."""
    columns = [f"attributes.`{name}`" for name in ATTRIBUTES]
    columns += [f"metrics.`{name}`" for name in METRICS]
    now_ms = int(time.time() * 1000)
    view = {"name": VIEW_NAME, "createdAt": now_ms, "updatedAt": now_ms}
    return {VIEW_TAG: json.dumps({**view, "state": json.dumps({"selectedColumns": columns})})}
