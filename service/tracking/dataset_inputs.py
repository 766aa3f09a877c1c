"""Datasets as inputs of MLflow runs: what its UI shows in the column Dataset."""

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.types import ColSpec, DataType, Schema

from data_pipeline.facts import DatasetFacts
from data_pipeline.files import is_remote
from data_pipeline.uris import redacted
from service.spec.job import JobSpec

Context = Literal["training", "validation", "held out"]

CONTEXT_TAG = "mlflow.data.context"
# MLflow's limits, in characters.
MAX_DIGEST_LENGTH = 36
MAX_NAME_LENGTH = 500
# The figures of a dataset that a run's tags have, beside its fingerprint.
FIGURES = ("num_images", "min_side_px", "max_side_px")
MAX_DIGITS = 18
_COLUMNS = Schema([ColSpec(DataType.binary, "image"), ColSpec(DataType.long, "label")])


def dataset_tags(split: Literal["train", "val"], facts: DatasetFacts) -> dict[str, str]:
    """What a run's tags say of a dataset, from which its input is made, now or later."""
    figures = {f"dataset_{split}_{name}": str(value) for name, value in _figures_of(facts).items()}
    return {f"dataset_{split}_fingerprint": facts.fingerprint, **figures}


def mlflow_dataset(
    location: str, fingerprint: str, figures: Mapping[str, int], held_out: str = ""
) -> Dataset:
    """A .beton file as MLflow's dataset.

    Its name is the file's, its digest the start of the fingerprint. ``location``: path or URI, of
    which secrets are left out. ``figures``: num_images, num_classes and others, for people.
    ``held_out``: which part of the file it is, if not all of it.
    """
    path = urlsplit(location).path if is_remote(location) else location
    source_type = location.partition("://")[0] if is_remote(location) else "local"
    name, digest = PurePosixPath(path).stem or "dataset", fingerprint[:MAX_DIGEST_LENGTH]
    if held_out:
        # Other images than those of the whole file; MLflow tells datasets apart by both.
        name, digest = (
            f"{name[: MAX_NAME_LENGTH - 30]} (held out)",
            f"{fingerprint[:16]}-{held_out}",
        )
    return Dataset(
        name=name[:MAX_NAME_LENGTH],
        digest=digest[:MAX_DIGEST_LENGTH],
        source_type=source_type,
        source=json.dumps({"uri": redacted(location)}),
        schema=json.dumps({"mlflow_colspec": _COLUMNS.to_dict()}),
        profile=json.dumps(dict(figures)),
    )


def log_dataset(
    client: MlflowClient,
    run_id: str,
    location: str,
    facts: DatasetFacts,
    num_classes: int,
    context: Context,
) -> Dataset:
    """Log a .beton file as an input of a run, once however often it is called.

    Returns the dataset, whose name and digest a metric of a logged model may be linked with.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    figures = {**_figures_of(facts), "num_classes": num_classes}
    dataset = mlflow_dataset(location, facts.fingerprint, figures)
    client.log_inputs(run_id, [_with_context(dataset, context)])
    return dataset


def log_run_datasets(
    client: MlflowClient, run_id: str, spec: JobSpec, tags: Mapping[str, str]
) -> None:
    """Log the datasets of a run as its inputs; those that its tags do not know are left out.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    if inputs := list(_run_inputs(spec, tags)):
        client.log_inputs(run_id, inputs)


def evaluated_dataset(spec: JobSpec, tags: Mapping[str, str]) -> Dataset | None:
    """The dataset that a run is evaluated on; None where its tags do not know it."""
    if spec.dataset.held_out is None:
        return _run_dataset(spec, tags, "val")
    return _held_out_dataset(spec, tags)


def _run_inputs(spec: JobSpec, tags: Mapping[str, str]) -> Iterator[DatasetInput]:
    evaluated: Context = "validation" if spec.dataset.held_out is None else "held out"
    contexts: dict[Context, Dataset | None] = {
        "training": _run_dataset(spec, tags, "train"),
        evaluated: evaluated_dataset(spec, tags),
    }
    for context, dataset in contexts.items():
        if dataset is not None:
            yield _with_context(dataset, context)


def _run_dataset(
    spec: JobSpec, tags: Mapping[str, str], split: Literal["train", "val"]
) -> Dataset | None:
    fingerprint = tags.get(f"dataset_{split}_fingerprint")
    if not fingerprint:
        return None
    location = spec.dataset.train if split == "train" else spec.dataset.val
    return mlflow_dataset(location, fingerprint, _figures(spec, tags, split))


def _held_out_dataset(spec: JobSpec, tags: Mapping[str, str]) -> Dataset | None:
    held_out, fingerprint = spec.dataset.held_out, tags.get("dataset_train_fingerprint")
    if held_out is None or not fingerprint:
        return None
    figures = {**_figures(spec, tags, "train"), "num_images": held_out.num_images}
    part = f"{held_out.num_images}-{held_out.seed}"
    return mlflow_dataset(spec.dataset.train, fingerprint, figures, part)


def _figures_of(facts: DatasetFacts) -> dict[str, int]:
    return dict(zip(FIGURES, (facts.num_images, facts.min_side, facts.max_side), strict=True))


def _figures(
    spec: JobSpec, tags: Mapping[str, str], split: Literal["train", "val"]
) -> dict[str, int]:
    # A run's folder may come from somebody else.
    texts = {figure: tags.get(f"dataset_{split}_{figure}", "") for figure in FIGURES}
    figures = {
        figure: int(text)
        for figure, text in texts.items()
        if text.isdecimal() and len(text) <= MAX_DIGITS
    }
    return {**figures, "num_classes": spec.dataset.num_classes}


def _with_context(dataset: Dataset, context: Context) -> DatasetInput:
    return DatasetInput(dataset, [InputTag(CONTEXT_TAG, context)])
