"""Each experiment has a view of its runs with their accuracies."""

import json

import pytest
from mlflow import MlflowClient

from service.tracking.mlflow_run import find_experiment


@pytest.mark.parametrize("exists_before", [False, True])
def test_view_is_there_and_edited_ones_are_kept(tmp_path, exists_before):
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    if exists_before:
        client.create_experiment("dtkd")
    experiment_id = find_experiment(client, "dtkd", None)
    (key,) = (k for k in client.get_experiment(experiment_id).tags if "sharedViewState" in k)
    view = json.loads(client.get_experiment(experiment_id).tags[key])
    # The fields that the UI requires, which reads the state from a string.
    assert view["name"] == "Accuracy"
    assert view["createdAt"] == view["updatedAt"] > 1.6e12
    columns = json.loads(view["state"])["selectedColumns"]
    assert {"metrics.`result/last_top1`", "metrics.`result/held_out_last_top1`"} <= set(columns)
    client.set_experiment_tag(experiment_id, key, "edited")
    assert find_experiment(client, "dtkd", None) == experiment_id
    assert client.get_experiment(experiment_id).tags[key] == "edited"
