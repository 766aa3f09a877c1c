"""Redis as its pod starts it: it asks for the password, and keeps its data."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from database_server import free_port

PLATFORM = Path(__file__).parents[2] / "deploy/kubernetes/platform"
PASSWORD = "0123456789abcdef"

pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="Redis is not installed (Debian: redis-server)"
)


def start(folder, port):
    """Start the container's command, with this folder and port in place of the pod's."""
    (document, _) = yaml.safe_load_all((PLATFORM / "redis.yaml").read_text())
    (container,) = document["spec"]["template"]["spec"]["containers"]
    config = (PLATFORM / "scripts" / "redis.conf").read_text()
    config = config.replace("dir /data", f"dir {folder}").replace("port 6379", f"port {port}")
    (folder / "redis.conf").write_text(config)
    *shell, script = container["command"]
    command = [*shell, script.replace("/config/redis.conf", shlex.quote(f"{folder}/redis.conf"))]
    process = subprocess.Popen(
        command, env={**os.environ, "REDISCLI_AUTH": PASSWORD}, stdout=subprocess.DEVNULL
    )
    deadline_s = time.monotonic() + 20
    while ask(port, "ping") != "PONG":
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    return process


def ask(port, *arguments, password=PASSWORD):
    """What redis-cli prints; the probe of the pod is one of these."""
    environment = {**os.environ, "REDISCLI_AUTH": password}
    command = ["redis-cli", "-e", "-p", str(port), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def test_redis_asks_for_the_password_and_keeps_what_it_has(tmp_path):
    port = free_port()
    process = start(tmp_path, port)
    try:
        assert ask(port, "set", "key", "value") == "OK"
        assert ask(port, "get", "key", password="wrong") is None
        assert PASSWORD not in Path(f"/proc/{process.pid}/cmdline").read_text()
        # What is written survives a crash, once a second has passed.
        time.sleep(1.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start(tmp_path, port)
        assert ask(port, "get", "key") == "value"
        # The pod's end: it is the process itself that receives the signal.
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
