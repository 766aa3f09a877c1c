"""What a store of MLflow has."""

import mlflow


def runs_by_name(store):
    """The runs of the default experiment, each of which has another name."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("dtkd")
    runs = client.search_runs([experiment.experiment_id])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: run for run in runs}
