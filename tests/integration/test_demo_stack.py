"""The demo's services: what listens where, who may submit jobs, and what is left when they stop."""

import contextlib
import ipaddress
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "deploy" / "local"))

import stack as demo_stack  # noqa: E402

pytestmark = pytest.mark.slow

# What Ray's dashboard says while the process that starts jobs is not there yet.
NOT_READY = "No available agent to submit job"
# On a busy machine.
JOB_LIMIT_S = 300.0
LOOPBACK = "127.0.0.1"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """The stack, with its files in a folder of the test."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_stack, "FOLDER", folder)
        patch.setattr(demo_stack, "STATE_PATH", folder / "stack.json")
        patch.setenv("PYTHONPATH", str(ROOT))
        # To be ignored.
        patch.setenv("RAY_ADDRESS", "127.0.0.1:9")
        try:
            yield demo_stack.up()
        finally:
            demo_stack.down()


def processes(stack):
    parents = [psutil.Process(int(pid)) for pid, _ in stack.processes]
    return [*parents, *(child for parent in parents for child in parent.children(recursive=True))]


def listeners(stack):
    """(name of the process, address, port) of all sockets that wait for other processes."""
    found = set()
    for process in processes(stack):
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {
                (process.name(), *one.laddr)
                for one in process.net_connections("inet")
                if one.status == psutil.CONN_LISTEN
                or (one.type == socket.SOCK_DGRAM and not one.raddr)
            }
    return found


def is_loopback(address):
    parsed = ipaddress.ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def train_and_watch(stack, spec_path, log_path):
    """Submit a job; returns its exit status, and the sockets that were open at any time."""
    command = ["ray", "job", "submit", "--address", stack.dashboard_url, "--"]
    command += [sys.executable, f"{ROOT}/jobs/distill.py", str(spec_path)]
    found = set()
    with log_path.open("w") as log:
        job = subprocess.Popen(command, env=stack.environment(), stdout=log, stderr=log)
        deadline_s = time.monotonic() + JOB_LIMIT_S
        while job.poll() is None and time.monotonic() < deadline_s:
            found |= listeners(stack)
            time.sleep(0.05)
        job.kill()
    return job.wait(), found


def test_services_and_a_job_on_them_listen_on_loopback_only(running, write_spec, tmp_path):
    spec_path, log_path = write_spec(resources={"num_workers": 2}), tmp_path / "job.log"
    deadline_s = time.monotonic() + JOB_LIMIT_S
    idle = listeners(running)
    status, found = train_and_watch(running, spec_path, log_path)
    while status != 0 and NOT_READY in log_path.read_text() and time.monotonic() < deadline_s:
        status, found = train_and_watch(running, spec_path, log_path)
    assert status == 0, log_path.read_text()
    # The ports that were asked for are among them, and those that two workers opened to train.
    ports = {port for _, _, port in idle}
    assert {
        int(url.rpartition(":")[2]) for url in (running.ray_address, running.mlflow_url)
    } < ports
    assert sum(one[:2] == ("ray::RayTrainWorker", LOOPBACK) for one in found - idle) >= 3, found
    assert [one for one in sorted(idle | found) if not is_loopback(one[1])] == []


def test_without_the_token_nothing_is_submitted(running):
    url = f"{running.dashboard_url}/api/jobs/"
    job = b'{"entrypoint": "true"}'
    for headers in ({}, {"Authorization": "Bearer " + "0" * 64}):
        headers["Content-Type"] = "application/json"
        request = urllib.request.Request(url, job, headers)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code in (401, 403)


def test_its_folders_are_closed_to_other_users(running):
    for folder in (demo_stack.FOLDER, Path(running.temporary)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (session,) = Path(running.temporary).glob("ray/session_2*")
    assert (session / "sockets").is_dir()
    # In its environment a process has the token's path, which others cannot read, and no token.
    token = (demo_stack.FOLDER / "ray_token").read_text()
    for process in processes(running):
        with contextlib.suppress(psutil.NoSuchProcess):
            assert token not in str(process.environ())
            assert token not in str(process.cmdline())


def test_nothing_is_left_when_it_is_stopped(running):
    started = processes(running)
    demo_stack.down()
    assert [one for one in started if one.is_running()] == []
    assert not Path(running.temporary).exists()
