"""A job over two hosts: network namespaces with addresses of their own, joined by a bridge."""

import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from service.spec import load_spec
from service.training.checkpoints import newest_checkpoint, read_metadata

ROOT = Path(__file__).parents[2]
HOSTS = {"dtkda": "10.199.7.1", "dtkdb": "10.199.7.2"}
BRIDGE = "dtkdbr"

pytestmark = pytest.mark.slow


def ip(*arguments, check=True):
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


def can_make_namespaces():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "dtkdprobe"], capture_output=True, check=False)
    ip("netns", "delete", "dtkdprobe", check=False)
    return made.returncode == 0


def remove_hosts():
    for host in HOSTS:
        ip("netns", "delete", host, check=False)
    ip("link", "delete", BRIDGE, check=False)


@pytest.fixture
def hosts():
    if not can_make_namespaces():
        pytest.skip("network namespaces need root and iproute2")
    remove_hosts()
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("link", "set", BRIDGE, "up")
    for host, address in HOSTS.items():
        ip("netns", "add", host)
        ip("link", "add", f"{host}0", "type", "veth", "peer", "name", "eth0", "netns", host)
        ip("link", "set", f"{host}0", "master", BRIDGE, "up")
        ip("-n", host, "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", host, "link", "set", "eth0", "up")
        ip("-n", host, "link", "set", "lo", "up")
    yield HOSTS
    remove_hosts()


@pytest.fixture
def cluster(hosts, tmp_path):
    """One Ray node of one CPU on each host, so that two workers need both."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    head, other = hosts
    head_address = hosts[head]
    commands = {
        head: ["--head", "--port=6379", f"--dashboard-host={head_address}"],
        other: [f"--address={head_address}:6379"],
    }
    processes = []
    for host, options in commands.items():
        command = ["ip", "netns", "exec", host, "ray", "start", "--block", "--num-cpus=1"]
        command += [f"--node-ip-address={hosts[host]}", "--object-store-memory=100000000", *options]
        log = (tmp_path / f"{host}.log").open("w")
        processes.append(
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        )
        wait_for_nodes(head, len(processes), environment, f"{head_address}:6379")
    yield head, head_address, environment
    family = [child for p in processes for child in psutil.Process(p.pid).children(recursive=True)]
    for process in processes:
        process.terminate()
    _, left = psutil.wait_procs(family, timeout=20)
    for process in left:
        process.kill()
    for process in processes:
        process.wait(20)


def wait_for_nodes(host, count, environment, address):
    code = (
        f"import ray; ray.init({address!r}, logging_level='ERROR'); "
        "print(sum(node['Alive'] for node in ray.nodes()))"
    )
    command = ["ip", "netns", "exec", host, sys.executable, "-c", code]
    deadline_s = time.monotonic() + 90
    while time.monotonic() < deadline_s:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.stdout.strip() == str(count):
            return
        time.sleep(1)
    raise TimeoutError(f"{count} nodes did not come up: {done.stdout}{done.stderr}")


def test_ray_job_trains_on_both_hosts(cluster, write_spec):
    head, address, environment = cluster
    path = write_spec()
    command = ["ip", "netns", "exec", head, "ray", "job", "submit"]
    command += ["--address", f"http://{address}:8265", "--", "python", "jobs/distill.py", str(path)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "student, last (epoch 2)" in done.stdout
    progress = read_metadata(newest_checkpoint(load_spec(path).run_path))["progress"]
    assert progress["epoch"] == 2
    assert progress["step"] == 8
