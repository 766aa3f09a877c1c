"""Datasets are inputs of their runs in MLflow, read back from a SQLite store."""

import json

import pytest
from mlflow import MlflowClient
from mlflow.utils.validation import _validate_dataset

from data_pipeline.facts import dataset_facts
from service.provenance import provenance_tags
from service.spec.loading import parse_job
from service.tracking.dataset_inputs import evaluated_dataset, log_dataset, mlflow_dataset
from service.tracking.mlflow_run import MlflowRun

FINGERPRINT = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def log_run(uri, make_content):
    """A function that logs a job's spec and tags twice, as resumed jobs do; its run and inputs."""

    def log(**sections):
        job = parse_job(make_content(**sections))
        job.spec.run_path.mkdir(parents=True)
        tags = provenance_tags(job, {}, "jobs/distill.py")
        for _ in range(2):
            run = MlflowRun(job.spec, uri)
            run.log_spec(tags)
        return job, tags, MlflowClient(uri).get_run(run.run_id)

    return log


def contexts(run):
    return {each.tags[0].value: each.dataset for each in run.inputs.dataset_inputs}


def test_a_run_has_its_datasets_as_inputs_once(log_run, data_folder):
    job, _, run = log_run(name="both")
    assert len(run.inputs.dataset_inputs) == 2
    found = contexts(run)
    assert found.keys() == {"training", "validation"}
    for context, name, num_images in (("training", "train", 256), ("validation", "val", 101)):
        dataset = found[context]
        facts = dataset_facts(str(data_folder / f"{name}.beton"))
        assert dataset.name == name
        assert len(dataset.digest) == 36
        assert facts.fingerprint.startswith(dataset.digest)
        assert (dataset.source_type, json.loads(dataset.source)) == (
            "local",
            {"uri": str(data_folder / f"{name}.beton")},
        )
        assert json.loads(dataset.profile) == {
            "num_images": num_images,
            "num_classes": 4,
            "min_side_px": 16,
            "max_side_px": 16,
        }
    assert job.spec.dataset.num_classes == 4


def test_held_out_images_are_a_dataset_of_their_own(log_run):
    job, tags, run = log_run(name="trial", dataset={"held_out": {"num_images": 64, "seed": 3}})
    found = contexts(run)
    assert found.keys() == {"training", "held out"}
    held_out = found["held out"]
    assert held_out.name == "train (held out)"
    assert held_out.digest != found["training"].digest
    assert json.loads(held_out.profile)["num_images"] == 64
    same = evaluated_dataset(job.spec, tags)
    assert (same.name, same.digest) == (held_out.name, held_out.digest)


def test_a_run_whose_tags_know_no_dataset_has_no_inputs(uri, make_content):
    spec = parse_job(make_content(name="unknown")).spec
    spec.run_path.mkdir(parents=True)
    run = MlflowRun(spec, uri)
    damaged = {"dataset_val_fingerprint": FINGERPRINT, "dataset_val_num_images": "9" * 5000}
    run.log_spec({"spec_hash": "0"})
    assert run.client.get_run(run.run_id).inputs.dataset_inputs == []
    run.log_spec(damaged)
    (found,) = run.client.get_run(run.run_id).inputs.dataset_inputs
    assert json.loads(found.dataset.profile) == {"num_classes": 4}


def test_an_evaluation_logs_what_it_evaluated(uri, data_folder):
    client = MlflowClient(uri)
    experiment_id = client.create_experiment("evaluations")
    run_id = client.create_run(experiment_id).info.run_id
    location = str(data_folder / "val.beton")
    logged = log_dataset(client, run_id, location, dataset_facts(location), 4, "validation")
    (found,) = client.get_run(run_id).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == (logged.name, logged.digest)
    assert found.tags[0].value == "validation"


@pytest.mark.parametrize(
    ("location", "name", "source_type", "uri"),
    [
        ("s3://bucket/a/val.beton", "val", "s3", "s3://bucket/a/val.beton"),
        ("gs://bucket/val.beton", "val", "gs", "gs://bucket/val.beton"),
        ("s3://me:secret@bucket/val.beton", "val", "s3", "s3://***@bucket/val.beton"),
        (f"/data/{'x' * 250}.beton", "x" * 250, "local", f"/data/{'x' * 250}.beton"),
    ],
)
def test_sources_have_no_secrets_and_names_fit(location, name, source_type, uri):
    dataset = mlflow_dataset(location, FINGERPRINT, {"num_images": 3})
    assert (dataset.name, dataset.source_type) == (name, source_type)
    assert json.loads(dataset.source) == {"uri": uri}
    _validate_dataset(dataset)
    part = mlflow_dataset(location, FINGERPRINT, {}, held_out="99999999-4294967295")
    _validate_dataset(part)
    assert part.digest.endswith("-99999999-4294967295")
