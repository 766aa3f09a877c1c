"""Runs Ray and MLflow on this machine, on loopback, for the demo; ``stack.py down`` stops them.

Processes are recorded by process id and start time, so that only these are stopped. Other users of
the machine can neither read their files and sockets nor submit jobs, but can reach MLflow, which
has no password here, and read Ray's metrics.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from data_pipeline.json_files import read_json

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".demo"
STATE_PATH = FOLDER / "stack.json"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
LOOPBACK = "127.0.0.1"
# Two workers, or two runs of a comparison, whatever the machine has.
NUM_RAY_CPUS = 2


@dataclass(frozen=True)
class Stack:
    """Addresses of the services, and [process id, start time] of their processes.

    ``temporary``: the folder of Ray's sockets and logs, closed to other users.
    """

    ray_address: str
    dashboard_url: str
    mlflow_url: str
    temporary: str
    processes: list[list[float]]

    def environment(self) -> dict[str, str]:
        """Environment variables for clients of the stack."""
        # Of another cluster; to Ray they count for more than the address that a command names.
        others = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
        return {
            **{name: value for name, value in os.environ.items() if name not in others},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(FOLDER / "ray_token"),
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Without it, Ray replaces 127.0.0.1 by the machine's own address, and listens on all.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Jobs of MLflow's own, which its clients could start.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }


def up() -> Stack:
    """Start Ray and MLflow, or return the stack that is already running."""
    running = load()
    if running is not None and len(_alive(running)) == len(running.processes):
        return running
    down()
    FOLDER.mkdir(exist_ok=True)
    FOLDER.chmod(0o700)
    token_path = FOLDER / "ray_token"
    token_path.unlink(missing_ok=True)
    with os.fdopen(os.open(token_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    gcs_port, dashboard_port, agent_port, client_port, mlflow_port = _free_ports(5)
    stack = Stack(
        f"{LOOPBACK}:{gcs_port}",
        f"http://{LOOPBACK}:{dashboard_port}",
        f"http://{LOOPBACK}:{mlflow_port}",
        # Paths of sockets must be short.
        tempfile.mkdtemp(prefix="dtkd-", dir="/tmp"),
        [],
    )
    ray = [
        "ray", "start", "--head", "--block", f"--node-ip-address={LOOPBACK}",
        f"--port={gcs_port}", f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard_port}",
        # Ray opens its own folder to everybody.
        f"--temp-dir={stack.temporary}/ray", f"--dashboard-agent-listen-port={agent_port}",
        f"--ray-client-server-port={client_port}", f"--num-cpus={NUM_RAY_CPUS}",
        "--object-store-memory=200000000",
    ]  # fmt: skip
    mlflow = [
        "mlflow", "server", "--host", LOOPBACK, "--port", str(mlflow_port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{FOLDER / 'mlflow.db'}",
        "--artifacts-destination", str(FOLDER / "artifacts"),
    ]  # fmt: skip
    for command in (ray, mlflow):
        stack.processes.append(_start(command, stack.environment()))
        STATE_PATH.write_text(json.dumps(asdict(stack)))
    _wait_for(stack.dashboard_url + "/api/version", token_path.read_text())
    _wait_for(stack.mlflow_url + "/health")
    return stack


def down() -> None:
    """Stop the processes that ``up`` started and their children."""
    stack = load()
    if stack is None:
        return
    parents = _alive(stack)
    processes = [*parents, *(child for p in parents for child in p.children(recursive=True))]
    for process in parents:
        _signal(process, signal.SIGTERM)
    _, remaining = psutil.wait_procs(processes, timeout=STOP_TIMEOUT_S)
    for process in remaining:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(remaining, timeout=STOP_TIMEOUT_S)
    shutil.rmtree(stack.temporary, ignore_errors=True)
    STATE_PATH.unlink()


def load() -> Stack | None:
    """The stack that was started last, which may have stopped; None if there is none."""
    return Stack(**read_json(STATE_PATH, 100_000, dict)) if STATE_PATH.exists() else None


def _start(command: list[str], environment: dict[str, str]) -> list[float]:
    log = (FOLDER / f"{command[0]}.log").open("w")
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    return [process.pid, psutil.Process(process.pid).create_time()]


def _alive(stack: Stack) -> list[psutil.Process]:
    """The stack's processes that are still running; start times exclude reused process ids."""
    found = []
    for pid, started in stack.processes:
        try:
            process = psutil.Process(int(pid))
            if process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for open_socket in sockets:
        open_socket.bind((LOOPBACK, 0))
    ports = [open_socket.getsockname()[1] for open_socket in sockets]
    for open_socket in sockets:
        open_socket.close()
    return ports


def _wait_for(url: str, token: str | None = None) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{url} does not respond; see the logs in {FOLDER}") from error
            time.sleep(0.5)
        else:
            return


if __name__ == "__main__":
    if sys.argv[1:] != ["down"]:
        sys.exit("usage: stack.py down")
    down()
