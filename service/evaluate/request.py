"""What an evaluation is asked for, and what of it is refused before anything is read."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from data_pipeline.files import write_atomically
from service.evaluate.options import ModelOptions
from service.spec.errors import BadInputError, Problem
from service.spec.mlflow_rules import experiment_problem
from service.spec.paths import absolute_path, absolute_uri, new_file_problem
from service.spec.secrets import environment_problems


class EvaluationFailedError(RuntimeError):
    """MLflow does not answer, or does not take the results."""


class ModelRequest(NamedTuple):
    """A model by its source; ``by_name``: only its classes with names of the data's are used."""

    source: str
    options: ModelOptions
    by_name: bool


class TrackingRequest(NamedTuple):
    """Where MLflow's addresses are, and whether the results are logged there.

    ``uri``: None where neither an option nor MLFLOW_TRACKING_URI names a server.
    """

    uri: str | None
    experiment: str
    is_logged: bool


class EvaluationRequest(NamedTuple):
    """``json_path``, ``html_path``: files to be written. ``corruption_seed``: None without
    corruptions.
    """

    model: ModelRequest
    data_path: Path
    teacher: ModelRequest | None
    tracking: TrackingRequest
    json_path: Path | None
    html_path: Path | None
    gpu: bool
    precision: Literal["float32", "bfloat16"]
    batch_size: int
    corruption_seed: int | None


def requested_uri(option: str | None) -> str | None:
    """The server of the option, or of MLFLOW_TRACKING_URI.

    Raises:
        BadInputError: a URI of the environment contains a secret.
    """
    if problems := list(environment_problems()):
        raise BadInputError("environment", problems)
    uri = option or os.environ.get("MLFLOW_TRACKING_URI")
    return absolute_uri(uri) if uri else None


def check_request(request: EvaluationRequest) -> None:
    """Refuse files that could not be written at the end, and what MLflow would refuse.

    Raises:
        BadInputError: naming each of them.
    """
    outputs = {"--json": request.json_path, "--html": request.html_path}
    paths = {option: absolute_path(path) for option, path in outputs.items() if path is not None}
    problems = [p for option, path in paths.items() if (p := new_file_problem(option, path))]
    if len(set(paths.values())) < len(paths):
        problems.append(Problem("--html", "is the same file as --json", "give another one"))
    tracking = request.tracking
    if tracking.is_logged and (problem := experiment_problem(tracking.experiment)):
        problems.append(Problem("--experiment", *problem))
    if problems:
        raise BadInputError("arguments", problems)


def write_outputs(texts: Mapping[Path, str]) -> None:
    """Write files, each atomically.

    Raises:
        OSError: the storage fails.
    """
    for path, text in texts.items():
        write_atomically(absolute_path(path), text)
