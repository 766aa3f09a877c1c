"""Secrets of the environment are in no file, log, page or metadata that a job leaves."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import fs
from support.mlflow_server import mlflow_server
from support.password_proxy import password_proxy
from support.spec_contents import NUM_CLASSES, SIZE, spec_content

from jobs.convert import main as convert

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CANARY = "canary-5e12"
USER = "tester"
MLFLOW_PASSWORD, S3_SECRET, TOKEN = (f"{CANARY}-{kind}" for kind in ("mlflow", "s3", "token"))
START_LIMIT_S = 90.0
# What Ray's dashboard says while the process that starts jobs is not there yet.
NOT_READY = "No available agent to submit job"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_for(url, headers):
    deadline_s = time.monotonic() + START_LIMIT_S
    while True:
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5)
        assert time.monotonic() < deadline_s, url
        time.sleep(0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(scope="module")
def environment(folder):
    """The user's environment: credentials, and nothing else that tells jobs where to go."""
    names = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": MLFLOW_PASSWORD,
        "AWS_ACCESS_KEY_ID": f"{CANARY}-key",
        "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "SOME_TOKEN": TOKEN,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@pytest.fixture(scope="module")
def mlflow_uri(folder):
    (folder / "mlflow").mkdir()
    with (
        mlflow_server(folder / "mlflow") as port,
        password_proxy(port, USER, MLFLOW_PASSWORD) as uri,
    ):
        yield uri


@pytest.fixture(scope="module")
def dataset(folder, environment):
    """Location of a dataset on an S3 server that the environment names."""
    for label in range(NUM_CLASSES):
        path = folder / "images" / str(label)
        path.mkdir(parents=True)
        for index in range(16):
            pixels = np.random.default_rng((label, index)).integers(0, 255, (SIZE, SIZE, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(path / f"{index}.png")
    beton = folder / "train.beton"
    assert convert([str(folder / "images"), str(beton), "--format", "raw"]) == 0
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "s3.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        wait_for(f"http://127.0.0.1:{port}/moto-api/", {}).close()
        store = fs.S3FileSystem(
            access_key=environment["AWS_ACCESS_KEY_ID"],
            secret_key=S3_SECRET,
            endpoint_override=f"127.0.0.1:{port}",
            scheme="http",
            allow_bucket_creation=True,
        )
        store.create_dir("datasets")
        for path in (beton, Path(f"{beton}.json")):
            with store.open_output_stream(f"datasets/{path.name}") as stream:
                stream.write(path.read_bytes())
        yield f"s3://datasets/{beton.name}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def dashboard(folder, environment, dataset):
    """URL of the dashboard of a Ray cluster; its sessions are in ``ray`` of the folder."""
    # Paths of Ray's sockets must be short.
    session = Path(f"/tmp/secrets-{os.getpid()}")
    options = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    ports = {name: free_port() for name in options}
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={session}"]
    command += ["--node-ip-address=127.0.0.2", "--dashboard-host=127.0.0.1"]
    command += ["--object-store-memory=100000000"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    with (folder / "ray.log").open("w") as log:
        head = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{ports['dashboard-port']}"
        wait_for(f"{url}/api/version", {"Authorization": f"Bearer {TOKEN}"}).close()
        environment["RAY_ADDRESS"] = f"127.0.0.2:{ports['port']}"
        (folder / "ray").symlink_to(session)
        yield url
    finally:
        # Ray waits for half a minute for its own processes to end.
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(session, ignore_errors=True)


def write_spec(folder, dataset, name, uri):
    content = spec_content(
        folder,
        folder / "runs",
        name=name,
        dataset={"train": dataset, "val": dataset, "cache": {"path": str(folder / "cache")}},
        schedule={"num_epochs": 1, "milestones": []},
        training={"global_batch_size": 32},
        resources={"num_workers": 1},
        tracking={"uri": uri},
    )
    (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / f"{name}.json"


def run(folder, environment, name, command):
    """Run a command with its output in the folder; returns its exit status and output."""
    with (folder / f"{name}.log").open("w") as log:
        result = subprocess.run(
            command, cwd=folder, env=environment, stdout=log, stderr=log, timeout=300, check=False
        )
    return result.returncode, (folder / f"{name}.log").read_text()


def places_of(text, folder):
    """Files in which a text is; sockets and the like are left out."""
    return [
        str(path)
        for root in (folder, (folder / "ray").resolve())
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and text.encode() in path.read_bytes()
    ]


@pytest.fixture(scope="module")
def submitted(folder, environment, dataset, mlflow_uri, dashboard):
    """Exit status and output of a job that was submitted and has ended."""
    spec = write_spec(folder, dataset, "submitted", mlflow_uri)
    command = ["ray", "job", "submit", f"--address={dashboard}", "--", sys.executable]
    command = [*command, f"{ROOT}/jobs/distill.py", str(spec)]
    deadline_s, output = time.monotonic() + START_LIMIT_S, NOT_READY
    while NOT_READY in output and time.monotonic() < deadline_s:
        status, output = run(folder, environment, "submitted", command)
    return status, output


def test_a_submitted_job_leaves_no_secret(folder, mlflow_uri, dashboard, submitted):
    status, output = submitted
    assert status == 0, output
    assert "student, last" in output
    result = json.loads((folder / "runs" / "submitted" / "result.json").read_text())
    assert result["address"].startswith(mlflow_uri)
    with wait_for(f"{dashboard}/api/jobs/", {"Authorization": f"Bearer {TOKEN}"}) as answer:
        jobs = answer.read().decode()
    assert "jobs/distill.py" in jobs
    assert CANARY not in jobs
    assert places_of(CANARY, folder) == []
    # The search would have found it: the spec's path and the tracking URI are in these places.
    assert any("/logs/" in path for path in places_of(f"{ROOT}/jobs/distill.py", folder))
    assert any(path.endswith("server.db") for path in places_of("submitted", folder))


@pytest.mark.parametrize("failure", ["password", "server", "userinfo"])
def test_a_job_that_fails_leaves_no_secret(
    folder, environment, dataset, mlflow_uri, submitted, failure
):
    name, changes, uri = failure, {}, mlflow_uri
    if failure == "password":
        changes = {"MLFLOW_TRACKING_PASSWORD": f"{CANARY}-wrong"}
    elif failure == "server":
        # Of a run that has finished: it trains nothing, and only has to be sent.
        name = "submitted"
        uri = f"http://127.0.0.1:{free_port()}"
    else:
        changes = {"MLFLOW_TRACKING_URI": f"http://{USER}:{MLFLOW_PASSWORD}@127.0.0.1:1"}
    spec = write_spec(folder, dataset, name, uri)
    command = [sys.executable, f"{ROOT}/jobs/distill.py", str(spec)]
    status, output = run(folder, {**environment, **changes}, failure, command)

    # A run whose MLflow is away is done; a wrong password and a secret in an address are refused.
    assert status == (0 if failure == "server" else 2), output
    assert ("does not answer" if failure == "server" else "MLFLOW_TRACKING_PASSWORD") in output
    assert places_of(CANARY, folder) == []
