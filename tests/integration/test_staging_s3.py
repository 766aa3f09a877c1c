"""Staging from an S3 server on loopback, through a relay that counts the bytes it delivers."""

import contextlib
import http.client
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pyarrow import fs
from support.staging_helpers import (
    CHUNK_BYTES,
    NUM_BYTES,
    kill_while_copying,
    make_dataset,
    num_fetched_bytes,
    put,
)

from data_pipeline.staging import StagingError, read_manifest_at, remote_manifest

pytestmark = pytest.mark.slow

SECRET = "a-secret-that-no-message-may-show"
# Headers of the responses: less than 1 kB for each of at most 30 requests.
OVERHEAD_BYTES = 30_000


class Relay:
    """Forwards connections to the server; counts the bytes of the responses, or cuts them."""

    def __init__(self, server_port):
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.num_bytes = 0
        self.num_cuts = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            for forward in (self._forward_requests, self._forward_responses):
                threading.Thread(target=forward, args=(client, server), daemon=True).start()

    def _forward_requests(self, client, server):
        self._forward(client, server, lambda data: True)

    def _forward_responses(self, client, server):
        self._forward(server, client, self._count)

    def _count(self, data):
        """Whether these bytes of a response are forwarded."""
        with self._lock:
            self.num_bytes += len(data)
            # Only in the middle of a chunk: a small response is complete in one piece.
            if self.num_cuts and len(data) >= 4096:
                self.num_cuts -= 1
                return False
        return True

    def _forward(self, source, target, may_forward):
        with contextlib.suppress(OSError):
            while (data := source.recv(16384)) and may_forward(data):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def server_port(tmp_path_factory):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (tmp_path_factory.mktemp("s3") / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    deadline_s = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            assert server.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
    yield port
    server.terminate()
    server.wait()


@pytest.fixture
def environment(monkeypatch):
    """Test credentials, and none of the user's configuration."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def relay(server_port, environment):
    relay = Relay(server_port)
    environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{relay.port}")
    yield relay
    relay.close()


@pytest.fixture
def uploaded(server_port, environment, tmp_path):
    """A dataset in the bucket "datasets": its location and its bytes."""
    path, content = make_dataset(tmp_path / "source", seed=5)
    store = fs.S3FileSystem(
        endpoint_override=f"127.0.0.1:{server_port}", scheme="http", allow_bucket_creation=True
    )
    store.create_dir("datasets")
    for name in (path, path + ".json"):
        with store.open_output_stream(f"datasets/of 2026/{Path(name).name}") as stream:
            stream.write(Path(name).read_bytes())
    return "s3://datasets/of 2026/train.beton", content


def test_staged_file_equals_the_object_and_is_fetched_once(uploaded, relay, cache, log_path):
    location, content = uploaded
    assert put(location, cache).read_bytes() == content
    assert NUM_BYTES < relay.num_bytes < NUM_BYTES + OVERHEAD_BYTES
    put(location, cache)
    assert relay.num_bytes < NUM_BYTES + 2 * OVERHEAD_BYTES


def test_killed_copy_resumes_with_the_missing_chunks_only(
    uploaded, relay, cache, log_path, tmp_path
):
    location, content = uploaded
    num_fetched = kill_while_copying(location, cache.path, tmp_path / "first")
    relay.num_bytes = 0
    assert put(location, cache).read_bytes() == content
    missing_bytes = NUM_BYTES - num_fetched * CHUNK_BYTES
    assert num_fetched_bytes(log_path) == missing_bytes
    assert missing_bytes < relay.num_bytes < missing_bytes + OVERHEAD_BYTES


def test_cut_connections_are_retried(uploaded, relay, cache, log_path):
    location, content = uploaded
    relay.num_cuts = 3
    assert put(location, cache).read_bytes() == content
    assert relay.num_cuts == 0


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("s3://datasets/of 2026/val.beton", r"val\.beton\.json does not exist; "),
        ("s3://no-such-bucket/train.beton", "there is no bucket no-such-bucket; "),
    ],
)
def test_missing_key_and_missing_bucket_are_distinguished(uploaded, relay, location, expected):
    with pytest.raises(StagingError, match=expected):
        read_manifest_at(location)


def test_denied_access_is_an_error(uploaded, relay, server_port, cache):
    location, _ = uploaded
    _enforce_access_control(server_port, "0")
    try:
        with pytest.raises(StagingError, match=r"access refused.*; set AWS_ACCESS_KEY") as caught:
            put(location, cache)
    finally:
        _enforce_access_control(server_port, "inf")
    assert SECRET not in str(caught.value)


def _enforce_access_control(server_port, num_free_requests):
    connection = http.client.HTTPConnection("127.0.0.1", server_port)
    headers = {"Content-Type": "text/plain"}
    connection.request("POST", "/moto-api/reset-auth", num_free_requests, headers)
    assert connection.getresponse().status == 200
    connection.close()


def test_endpoint_that_refuses_connections_is_an_error_in_time(environment):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    start_s = time.monotonic()
    with pytest.raises(
        StagingError, match=r"does not answer.*; check the network and the endpoint"
    ):
        read_manifest_at("s3://datasets/train.beton")
    assert time.monotonic() - start_s < remote_manifest.ANSWER_LIMIT_S


def test_silent_endpoint_is_an_error_in_time(environment):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        environment.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        start_s = time.monotonic()
        with pytest.raises(StagingError, match="answer"):
            read_manifest_at("s3://datasets/train.beton")
        assert time.monotonic() - start_s < remote_manifest.ANSWER_LIMIT_S + 1
