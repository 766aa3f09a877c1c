"""The scripts that make Secrets, apply a part, and drain a node."""

import json
import subprocess
import sys
import time
from pathlib import Path

import apply
import create_secrets
import pytest
from external import SECRETS
from kubectl import find_kubectl
from support.fake_kubectl import COMPLETE

from service.spec.errors import BadInputError

FOLDER = Path(create_secrets.__file__).parent
DRAIN = FOLDER / "platform" / "scripts" / "drain.sh"


def test_secrets_have_all_keys_and_are_in_no_argument(cluster):
    cluster.has("namespace/dtkd", "secret/dtkd-redis")
    create_secrets.create_secrets([])
    ((verb, items),) = cluster.sent
    assert verb == "create"
    made = {item["metadata"]["name"]: item["stringData"] for item in items}
    # What exists is not made again.
    assert {name: tuple(values) for name, values in made.items()} == {
        name: keys for name, keys in SECRETS.items() if name != "dtkd-redis"
    }
    values = [value for each in made.values() for key, value in each.items() if "name" not in key]
    assert len(set(values)) == len(values)
    assert min(map(len, values)) == 64
    arguments = json.dumps(cluster.arguments)
    assert not any(value in arguments for value in values)


@pytest.mark.parametrize(
    ("objects", "expected"), [([], "dtkd: is missing"), (COMPLETE, "Secret dtkd-ray: exists; keep")]
)
def test_secrets_need_a_namespace_and_are_never_replaced(cluster, objects, expected):
    cluster.has(*objects)
    with pytest.raises(BadInputError, match=expected):
        create_secrets.create_secrets([])
    assert cluster.sent == []


def test_platform_is_refused_without_its_secrets(cluster):
    cluster.has("namespace/dtkd", *(f"secret/{name}" for name in SECRETS))
    with pytest.raises(BadInputError, match="no Secret dtkd-ingress-tls; run kubectl create"):
        apply.apply(["gpu", "platform"])
    assert cluster.sent == []
    # It has no Ingress.
    apply.apply(["one-machine", "platform"])
    cluster.has()
    apply.apply(["one-machine", "foundation"])
    assert [verb for verb, _ in cluster.sent] == ["apply", "apply"]
    assert cluster.sent[1][1][0]["kind"] == "Namespace"


def test_platform_of_which_a_part_is_refused_is_not_applied(ready_cluster):
    ready_cluster.refuses("RayCluster")
    with pytest.raises(BadInputError, match="RayCluster is forbidden"):
        apply.apply(["cpu", "platform"])
    assert ready_cluster.sent == []


def test_scripts_print_one_line_for_a_problem(cluster, write_pod_spec):
    path = write_pod_spec(name="First")
    command = [sys.executable, FOLDER / "submit.py", path, "--overlay", "cpu", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("deploy: name: First is no DNS-1123 name")


def test_cluster_that_does_not_answer_is_said_so(cluster, monkeypatch):
    refused = "The connection to the server localhost:8080 was refused"
    cluster.answers(["--raw=/version", refused, 1])
    for script, arguments in (
        (apply.apply, ["gpu", "foundation"]),
        (apply.apply, ["gpu", "platform"]),
        (create_secrets.create_secrets, []),
    ):
        with pytest.raises(BadInputError) as caught:
            script(arguments)
        (problem,) = caught.value.problems
        assert str(problem).startswith(f"cluster: does not answer: {refused}; choose one with")
        assert "kubectl config use-context" in problem.remedy
    assert cluster.sent == []


@pytest.mark.parametrize("content", [b"no program\n", b"\x7fELF\xff\xfe", b"#!/no/such/shell\n"])
def test_kubectl_that_is_no_program_is_passed_over(tmp_path, monkeypatch, content):
    program = tmp_path / "kubectl"
    program.write_bytes(content)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    beside_python = Path(sys.executable).parent / "kubectl"
    find_kubectl.cache_clear()
    assert find_kubectl() == str(beside_python)
    find_kubectl.cache_clear()
    monkeypatch.setattr("kubectl.sys.executable", str(tmp_path / "python"))
    with pytest.raises(BadInputError, match="there is no kubectl with kustomize 5 or newer; run"):
        find_kubectl()


def _drain(tmp_path, seconds, processes):
    """Run drain.sh on a node with these processes; returns its seconds and Ray's arguments."""
    ray, proc = tmp_path / "bin" / "ray", tmp_path / "proc"
    ray.parent.mkdir()
    ray.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n')
    ray.chmod(0o755)
    for number, title in enumerate(processes, start=1):
        (proc / str(number)).mkdir(parents=True)
        (proc / str(number) / "cmdline").write_bytes(title.encode() + b"\0\0")
    environment = {"PATH": f"{ray.parent}:/usr/bin:/bin", "PROC": str(proc)}
    start_s = time.monotonic()
    process = subprocess.Popen(["bash", DRAIN, str(seconds)], env=environment)
    return process, start_s, proc


def test_drain_tells_ray_and_ends_when_no_worker_is_left(tmp_path):
    # As Ray sets them, padded to the length of the first command line.
    others = ["ray::IDLE   ", "ray::DashboardAgent  ", "ray::RuntimeEnvAgent", "ray::_StatsActor  "]
    titles = [*others, "bash /scripts/drain.sh", "ray::RayTrainWorker.execute   "]
    process, start_s, proc = _drain(tmp_path, 60, titles)
    while not (tmp_path / "arguments").exists() or not (tmp_path / "arguments").read_text():
        assert time.monotonic() < start_s + 20
        time.sleep(0.05)
    assert process.poll() is None
    arguments = (tmp_path / "arguments").read_text()
    assert "drain-node --reason DRAIN_NODE_REASON_PREEMPTION" in arguments
    assert "--deadline-remaining-seconds 60" in arguments
    # The worker has saved, and exits.
    (proc / str(len(titles)) / "cmdline").unlink()
    assert process.wait(timeout=20) == 0
    assert time.monotonic() - start_s < 30


def test_drain_ends_at_its_deadline(tmp_path):
    process, start_s, _ = _drain(tmp_path, 2, ["ray::RayTrainWorker"])
    assert process.wait(timeout=20) == 0
    assert time.monotonic() - start_s > 1


def test_ray_has_the_options_that_drain_gives_it():
    from ray.scripts.scripts import cli

    parameters = {name for option in cli.commands["drain-node"].params for name in option.opts}
    text = DRAIN.read_text()
    used = {word for word in text.split() if word.startswith("--")}
    assert used
    assert used <= parameters
    choices = cli.commands["drain-node"].params
    reasons = next(option.type.choices for option in choices if option.name == "reason")
    assert "DRAIN_NODE_REASON_PREEMPTION" in reasons
