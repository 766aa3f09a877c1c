"""A new experiment has a view of its runs with their accuracies."""

import json

from mlflow import MlflowClient

from service.tracking.mlflow_run import find_experiment


def test_view_is_there_and_comes_back_only_with_the_experiment(tmp_path):
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment_id = find_experiment(client, "dtkd", None)
    (key,) = (k for k in client.get_experiment(experiment_id).tags if "sharedViewState" in k)
    view = json.loads(client.get_experiment(experiment_id).tags[key])
    # The fields that the UI requires, which reads the state from a string.
    assert view["name"] == "Accuracy"
    assert view["createdAt"] == view["updatedAt"] > 1.6e12
    assert "metrics.`result/last_top1`" in json.loads(view["state"])["selectedColumns"]
    client.delete_experiment_tag(experiment_id, key)
    assert find_experiment(client, "dtkd", None) == experiment_id
    assert key not in client.get_experiment(experiment_id).tags
