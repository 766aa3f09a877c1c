"""deploy/skypilot.yaml is what SkyPilot accepts, and its commands train on two hosts."""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from fault_runs import Workload
from hosts import LOCK_PATH, ROOT, can_make_hosts, make_hosts, remove_hosts
from support.training_runs import final

from service.run.result import RESULT_NAME
from service.spec.errors import EXIT_DONE
from service.spec.loading import parse_spec

PATH = ROOT / "deploy" / "skypilot.yaml"
RELEASE = "skypilot==0.14.1"
DOWNLOAD_LIMIT_S = 120.0
JOB_LIMIT_S = 300.0
# SkyPilot needs packages that this project does not: only its module of schemas is loaded. That
# imports in vain what describes the server, plugins and packages.
PRINT_SCHEMAS = """
import json, sys, types, unittest.mock
sys.path.insert(0, sys.argv[1])
sky = types.ModuleType("sky")
sky.__path__, sky.__version__ = [sys.argv[1] + "/sky"], "0"
sys.modules["sky"] = sky
names = "setup_files", "setup_files.dependencies", "server", "server.plugins", "skylet.autostop_lib"
sys.modules |= {f"sky.{name}": unittest.mock.MagicMock() for name in names}
from sky.utils import schemas
found = [schemas.get_task_schema(), schemas.get_resources_schema()]
# The stand-ins above are no JSON.
print(json.dumps(found, default=lambda _: []))
"""
# In place of programs that machines of clouds have: the command itself, without the container.
STAND_INS = {"sudo": 'exec "${@:2}"', "docker": 'exec "${@: -3}"'}


@pytest.fixture(scope="module")
def task():
    return yaml.safe_load(PATH.read_text())


@pytest.fixture(scope="module")
def schemas(tmp_path_factory):
    """Of a task, and of its resources."""
    folder = tmp_path_factory.mktemp("wheel")
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    try:
        command = [*download, RELEASE]
        subprocess.run(command, capture_output=True, timeout=DOWNLOAD_LIMIT_S, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(f"pip cannot download {RELEASE} here")
    (wheel,) = folder.glob("*.whl")
    command = [sys.executable, "-c", PRINT_SCHEMAS, str(wheel)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def test_task_and_resources_are_those_of_skypilots_schemas(schemas, task):
    task_schema, resources_schema = schemas
    jsonschema.validate(task, task_schema)
    jsonschema.validate(task["resources"], resources_schema)
    with pytest.raises(jsonschema.ValidationError, match="spot"):
        jsonschema.validate({**task["resources"], "spot": True}, resources_schema)


@pytest.fixture
def hosts():
    if not can_make_hosts():
        pytest.skip("network namespaces need root and iproute2")
    with LOCK_PATH.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield make_hosts(2)
        remove_hosts()


def start_run(task, host, rank, hosts, spec_path, folder):
    """The task's commands on one of the hosts, as SkyPilot runs them."""
    environment = {
        **os.environ,
        **{name: value or "" for name, value in (task["envs"] | task["secrets"]).items()},
        "PATH": os.pathsep.join(
            [str(folder), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "PYTHONPATH": str(ROOT),
        "SPEC": str(spec_path),
        "SKYPILOT_NODE_IPS": "\n".join(host.address for host in hosts),
        "SKYPILOT_NODE_RANK": str(rank),
        "SKYPILOT_NUM_NODES": str(len(hosts)),
        "SKYPILOT_NUM_GPUS_PER_NODE": "0",
        "RAY_TMPDIR": "/tmp",
    }
    with (folder / f"{rank}.log").open("w") as log:
        return subprocess.Popen(
            host.command("bash", "-c", task["run"]),
            cwd=ROOT,
            env=environment | {"RAY_AUTH_TOKEN": (folder / "token").read_text()},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def test_commands_train_on_two_hosts(task, hosts, tmp_path):
    workload = Workload(tmp_path / "work")
    content = workload.content("sky", resources={"cpus_per_worker": os.cpu_count()})
    spec_path = tmp_path / "spec.json"
    spec_path.write_text(json.dumps(content))
    (tmp_path / "token").write_text(secrets.token_hex(32))
    for name, command in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{command}\n")
        (tmp_path / name).chmod(0o755)
    runs = [
        start_run(task, host, rank, hosts, spec_path, tmp_path) for rank, host in enumerate(hosts)
    ]
    try:
        assert runs[0].wait(JOB_LIMIT_S) == EXIT_DONE, (tmp_path / "0.log").read_text()
    finally:
        for run in runs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGTERM)
        for run in runs:
            run.wait(JOB_LIMIT_S)
    spec = parse_spec(content)
    assert (spec.run_path / RESULT_NAME).exists()
    assert final(spec)[1] == final(workload.reference)[1]
