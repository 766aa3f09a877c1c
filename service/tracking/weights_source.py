"""Finds and fetches the weights that an MLflow address names.

An address is that of a run's artifacts (runs:/ID/PATH), of a registered version (models:/NAME/3,
models:/NAME@ALIAS), of a logged model (models:/m-ID), or of artifacts (mlflow-artifacts:/PATH).
MLflow's own resolution mixes the artifacts of a run with those of its models; this one does not.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus

from data_pipeline.json_files import UnusableFileError, read_json
from service.run.student_card import CARD_NAME
from service.spec.errors import BadInputError, Problem
from service.spec.tensor_info import UnreadableWeightsError
from service.spec.weights_file import read_weights_file
from service.spec.weights_metadata import classifier_sizes, read_card
from service.tracking.mlflow_run import TRACKING_ERRORS
from service.tracking.refusals import is_refusal, reason_of

CARD_KEYS = {"architecture", "num_classes", "classes"}
MAX_DEPTH = 4
MAX_NAMES = 3
# What is fetched in a second or so.
SMALL_FILE_BYTES = 20_000_000


class FoundWeights(NamedTuple):
    """The one safetensors file at an address.

    ``origin``: what the address is, such as "version 3 of run ...". ``card``: what the service
    logged about a student (see run/student_card.py), empty for other models. ``run_id``,
    ``model_id``: of the run and the logged model that it belongs to, where there are such.
    """

    uri: str
    origin: str
    num_bytes: int | None
    card: dict[str, Any]
    run_id: str | None = None
    model_id: str | None = None


class _Place(NamedTuple):
    """A folder or file of artifacts, what it is, and what it belongs to."""

    uri: str
    origin: str
    run_id: str | None = None
    model_id: str | None = None


class _File(NamedTuple):
    folder_uri: str
    name: str
    num_bytes: int | None

    @property
    def uri(self) -> str:
        return f"{self.folder_uri}/{self.name}"


def find_weights(source: str, tracking_uri: str, where: str) -> FoundWeights:
    """Look an address up on the tracking server; ``where`` is the field that it is in.

    Raises:
        BadInputError: there is no such model, run or artifact, or not exactly one safetensors file.
        One of TRACKING_ERRORS: the server does not answer.
    """
    try:
        for place in _places(source, tracking_uri):
            files = list(_files(place.uri, tracking_uri))
            weights = [file for file in files if file.name.lower().endswith(".safetensors")]
            if weights:
                return _found(weights, files, place, source, tracking_uri, where)
    except TRACKING_ERRORS as error:
        if not is_refusal(error):
            raise
        remedy = "give an address that MLflow has, such as models:/NAME@ALIAS or runs:/ID/student"
        problem = Problem(where, f"{source} is not in MLflow: {reason_of(error)}", remedy)
        raise BadInputError("spec", [problem]) from error
    problem = Problem(
        where,
        f"{source} has no safetensors file at {tracking_uri}",
        "give the address of one, such as runs:/ID/student",
    )
    raise BadInputError("spec", [problem])


def find_described(source: str, tracking_uri: str, where: str) -> FoundWeights:
    """As ``find_weights``; of a small file without a card, the header says how many classes."""
    found = find_weights(source, tracking_uri, where)
    if found.card or found.num_bytes is None or found.num_bytes > SMALL_FILE_BYTES:
        return found
    with tempfile.TemporaryDirectory() as folder:
        path = fetch(found.uri, folder, tracking_uri)
        card = read_card(path) or _classes_of(path)
    return found._replace(card=card)


def _classes_of(path: Path) -> dict[str, Any]:
    """The number of classes of a file without a card, if it is seen."""
    try:
        sizes = classifier_sizes(read_weights_file(path).tensors)
    except UnreadableWeightsError:
        sizes = []
    return {"num_classes": sizes[-1]} if sizes else {}


def download_weights(source: str, folder: str, where: str) -> Path:
    """Fetch the safetensors file at an address of the current tracking server into ``folder``.

    Raises:
        BadInputError: naming the field ``where``; it cannot be found or fetched.
    """
    tracking_uri = mlflow.get_tracking_uri()
    try:
        uri = find_weights(source, tracking_uri, where).uri
        return fetch(uri, folder, tracking_uri)
    except TRACKING_ERRORS as error:
        wrong = f"{source} cannot be fetched from {tracking_uri} ({reason_of(error)})"
        raise BadInputError("spec", [Problem(where, wrong, "check the server")]) from error


def _found(
    weights: list[_File],
    files: list[_File],
    place: _Place,
    source: str,
    tracking_uri: str,
    where: str,
) -> FoundWeights:
    if len(weights) > 1:
        names = ", ".join(file.uri for file in weights[:MAX_NAMES])
        wrong = f"{source} has {len(weights)} safetensors files: {names}"
        raise BadInputError("spec", [Problem(where, wrong, "give the address of one of them")])
    (file,) = weights
    card: dict[str, Any] = {}
    if any(other.uri == f"{file.folder_uri}/{CARD_NAME}" for other in files):
        with tempfile.TemporaryDirectory() as folder:
            path = fetch(f"{file.folder_uri}/{CARD_NAME}", folder, tracking_uri)
            # Another program may have a file of this name.
            with contextlib.suppress(UnusableFileError):
                card = read_json(path, SMALL_FILE_BYTES, dict)
    if not card.keys() >= CARD_KEYS:
        card = {}
    return FoundWeights(file.uri, place.origin, file.num_bytes, card, place.run_id, place.model_id)


def fetch(uri: str, folder: str, tracking_uri: str) -> Path:
    """Fetch the file of ``FoundWeights.uri`` into ``folder``; returns its path.

    Raises:
        One of TRACKING_ERRORS: the server does not answer.
    """
    fetched = mlflow.artifacts.download_artifacts(
        artifact_uri=uri, dst_path=folder, tracking_uri=tracking_uri
    )
    return Path(fetched)


def _places(source: str, tracking_uri: str) -> Iterator[_Place]:
    """Where the files of an address are; the first place that has weights counts."""
    client = MlflowClient(tracking_uri)
    scheme, _, path = source.partition(":/")
    if scheme == "runs":
        yield from _places_of_run(client, path)
    elif scheme == "models":
        yield _place_of_model(client, path)
    else:
        yield _Place(source.rstrip("/"), "among the artifacts")


def _places_of_run(client: MlflowClient, path: str) -> Iterator[_Place]:
    run_id, _, artifact_path = path.strip("/").partition("/")
    run = client.get_run(run_id)
    origin = f"in run {run_id}"
    name, _, rest = artifact_path.partition("/")
    query = f"source_run_id = '{run_id}'"
    models = client.search_logged_models([run.info.experiment_id], query) if name else []
    ready = (model for model in models if model.status == LoggedModelStatus.READY)
    model = next((model for model in ready if model.name == name), None)
    model_id = model.model_id if model is not None else None
    uri = f"{run.info.artifact_uri}/{artifact_path}".rstrip("/")
    yield _Place(uri, origin, run_id, model_id)
    # Not among the run's own files: a model that it logged under this name.
    if model is not None:
        yield _Place(f"{model.artifact_location}/{rest}".rstrip("/"), origin, run_id, model_id)


def _place_of_model(client: MlflowClient, path: str) -> _Place:
    name, _, rest = path.strip("/").partition("/")
    if "@" not in name and name.startswith("m-") and not rest.split("/")[0].isdigit():
        model = client.get_logged_model(name)
        uri = f"{model.artifact_location}/{rest}".rstrip("/")
        origin = f"the logged model {name} of run {model.source_run_id}"
        return _Place(uri, origin, model.source_run_id, name)
    if "@" in name:
        name, _, alias = name.rpartition("@")
        version = client.get_model_version_by_alias(name, alias)
    else:
        number, _, rest = rest.partition("/")
        version = client.get_model_version(name, number)
    uri = str(client.get_model_version_download_uri(name, version.version))
    origin, model_id = f"version {version.version} of {name}", None
    if version.run_id:
        origin += f", of run {version.run_id}"
    if uri.startswith("models:/"):
        uri, _, _, model_id = _place_of_model(client, uri.removeprefix("models:/"))
    return _Place(f"{uri}/{rest}".rstrip("/"), origin, version.run_id or None, model_id)


def _files(uri: str, tracking_uri: str) -> Iterator[_File]:
    """The file at ``uri``, with its neighbors that explain it; or all files of the folder."""
    if not uri.lower().endswith(".safetensors"):
        yield from _files_below(uri, tracking_uri, MAX_DEPTH)
        return
    folder_uri, _, name = uri.rpartition("/")
    for file in _files_below(folder_uri, tracking_uri, 1):
        if file.name in (name, CARD_NAME):
            yield file


def _files_below(uri: str, tracking_uri: str, depth: int) -> Iterator[_File]:
    for info in mlflow.artifacts.list_artifacts(artifact_uri=uri, tracking_uri=tracking_uri):
        name = info.path.rpartition("/")[2]
        if not info.is_dir:
            yield _File(uri, name, info.file_size)
        elif depth > 1:
            yield from _files_below(f"{uri}/{name}", tracking_uri, depth - 1)
