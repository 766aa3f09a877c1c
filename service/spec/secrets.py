"""Refuses secrets in specs, arguments and the URIs of the environment; none is repeated."""

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.uris import has_secret, redacted, secret_remedy
from service.spec.errors import Problem, shown
from service.spec.paths import absolute_path, refused_path

URI_VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_S3_ENDPOINT_URL",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "STORAGE_EMULATOR_HOST",
)
WRONG = "contains a user name, password, token or signature"


def secret_problems(content: Any, where: str = "") -> Iterator[Problem]:  # noqa: ANN401 - JSON
    """A problem for each text of JSON data that is a URI with a secret."""
    if isinstance(content, str):
        if has_secret(content):
            yield Problem(where or "$", WRONG, secret_remedy(content))
    elif isinstance(content, Mapping):
        for key, inner in content.items():
            yield from secret_problems(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(content, list | tuple):
        for index, inner in enumerate(content):
            yield from secret_problems(inner, f"{where}.{index}" if where else str(index))


def without_secrets(content: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The same JSON data with its URIs redacted."""
    if isinstance(content, str):
        return redacted(content)
    if isinstance(content, Mapping):
        return {key: without_secrets(inner) for key, inner in content.items()}
    if isinstance(content, list | tuple):
        return [without_secrets(inner) for inner in content]
    return content


def environment_problems() -> Iterator[Problem]:
    """A problem for each URI of the environment with a secret.

    MLflow and the clients of object stores would write it to logs and errors.
    """
    for name in URI_VARIABLES:
        if has_secret(uri := os.environ.get(name, "")):
            yield Problem(name, WRONG, secret_remedy("s3://" if "AWS" in name else uri))


def path_argument(text: str) -> Path:
    """A path on the command line.

    Raises:
        argparse.ArgumentTypeError: it is a URI with a secret, or the system refuses it.
    """
    if has_secret(text):
        raise argparse.ArgumentTypeError(f"{WRONG}; {secret_remedy(text)}")
    if reason := refused_path(absolute_path(text)):
        raise argparse.ArgumentTypeError(f"{shown(text)}: {reason}; give another path")
    return Path(text)
