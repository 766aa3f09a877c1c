"""What is done in a pod: inside.py COMMAND, given on standard input. It prints a line of JSON.

logins: statuses of MLflow's API by who asks. student NAME FOLDER: a registered student, and whether
its weights are those of the run in the folder. reach HOST:PORT ...: which take a connection.
database: what Postgres says to a wrong password. redis: what Redis says to nobody.
"""

import base64
import hashlib
import json
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

TIMEOUT_S = 3.0


def logins() -> dict[str, int]:
    """Statuses of HTTP by who asks."""
    name, password = (os.environ[f"MLFLOW_TRACKING_{key}"] for key in ("USERNAME", "PASSWORD"))
    search = "2.0/mlflow/experiments/search?max_results=1"
    return {
        "nobody": _status(search, None),
        "wrong password": _status(search, f"{name}:wrong"),
        "runs": _status(search, f"{name}:{password}"),
        "runs, for an administrator": _status(
            "2.0/mlflow/users/create",
            f"{name}:{password}",
            {"username": "intruder", "password": "longer than twelve"},
        ),
    }


def _status(path: str, login: str | None, body: dict[str, str] | None = None) -> int:
    request = urllib.request.Request(f"{os.environ['MLFLOW_TRACKING_URI']}/api/{path}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    if login is not None:
        encoded = base64.b64encode(login.encode()).decode()
        request.add_header("Authorization", f"Basic {encoded}")
    try:
        with urllib.request.urlopen(request) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        return error.code


def student(name: str, folder: str) -> dict[str, object]:
    """The run and the weights of the first version of a registered student."""
    import mlflow

    version = mlflow.MlflowClient().get_model_version(name, "1")
    run = mlflow.get_run(version.run_id)
    path = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/1", dst_path="/tmp"))
    digests = {_digest(found) for found in path.rglob("*.safetensors")}
    return {
        "version": version.version,
        "status": run.info.status,
        "top1": run.data.metrics["val/top1"],
        "weights are the run's": _digest(Path(folder, "student.safetensors")) in digests,
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def reach(addresses: Sequence[str]) -> dict[str, bool]:
    """Whether each address takes a connection."""
    return {address: _answers(*address.split(":")) for address in addresses}


def _answers(host: str, port: str) -> bool:
    try:
        socket.create_connection((host, int(port)), TIMEOUT_S).close()
    except OSError:
        return False
    return True


def database() -> dict[str, str]:
    """What Postgres says to a wrong password; an empty text if it lets it in."""
    import psycopg2  # type: ignore[import-untyped]

    try:
        psycopg2.connect(host="postgres", user="mlflow", password="wrong").close()
    except psycopg2.OperationalError as error:
        return {"says": str(error)}
    return {"says": ""}


def redis() -> dict[str, str]:
    """What Redis answers to who has no password."""
    with socket.create_connection(("redis", 6379), TIMEOUT_S) as connection:
        connection.sendall(b"KEYS *\r\n")
        return {"says": connection.recv(200).decode().strip()}


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    results: dict[str, Callable[[], dict]] = {
        "logins": logins,
        "student": lambda: student(*arguments),
        "reach": lambda: reach(arguments),
        "database": database,
        "redis": redis,
    }
    print(json.dumps(results[command]()))
