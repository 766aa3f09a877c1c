"""The scripts that make Secrets, apply a part, look up images, and drain a node."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import apply
import create_secrets
import pin_images
import pytest
import yaml
from external import SECRETS
from kubectl import build, find_kubectl
from support.built_overlays import documents_of, find
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


def test_a_restore_is_the_backups_job_with_another_action(tmp_path):
    """Of its calls of kubectl, the one that changes the Job needs no cluster."""
    text = (FOLDER / "restore.sh").read_text()
    (options,) = re.findall(r"k set env (--local .*?) --output=yaml", text)
    job = find(documents_of("cpu"), "CronJob", "postgres-backup")["spec"]["jobTemplate"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "restore"}, **job}
    command = [find_kubectl(), "set", "env", *options.replace('"$dump"', "newest").split()]
    done = subprocess.run(
        [*command, "--output=json"], input=json.dumps(job), capture_output=True, text=True
    )
    (container,) = json.loads(done.stdout)["spec"]["template"]["spec"]["containers"]
    values = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert values["ACTION"] == "restore"
    assert values["DUMP"] == "newest"
    assert values["PGHOST"] == "postgres"
    # Both actions are scripts that the pod has.
    config = next(d for d in documents_of("cpu") if "restore.sh" in d.get("data", {}))
    assert {"backup.sh", "restore.sh"} <= config["data"].keys()


SKOPEO = """\
#!{python}
import json, sys
name = sys.argv[2]
labels = {{"dtkd-service.lock-sha256": "{lock}" if "-c" in name else ""}}
digest = "sha256:" + ("%x" % sum(name.encode())).rjust(64, "0")
print(json.dumps({{"Digest": digest, "Labels": labels}}))
"""


def _skopeo(folder, monkeypatch, text):
    folder.mkdir()
    program = folder / "skopeo"
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_images_get_digests_and_the_clusters_their_lock(tmp_path, monkeypatch):
    text = SKOPEO.format(python=sys.executable, lock="a" * 64)
    _skopeo(tmp_path / "bin", monkeypatch, text)
    images = tmp_path / "kustomization.yaml"
    images.write_text(pin_images.IMAGES.read_text())
    monkeypatch.setattr(pin_images, "IMAGES", images)
    pin_images.pin_images(["--registry", "registry.example.com/team", "--tag", "1.0"])
    component = yaml.safe_load(images.read_text())
    entries = {image["name"]: image for image in component["images"]}
    assert all(set(image) == {"name", "newName", "digest"} for image in entries.values())
    asked = "docker://registry.example.com/team/dtkd-service:1.0-cuda"
    assert entries["dtkd-service-cuda"]["newName"] == "registry.example.com/team/dtkd-service"
    assert int(entries["dtkd-service-cuda"]["digest"][7:], 16) == sum(asked.encode())
    assert entries["postgres"]["newName"] == "postgres"
    (patch,) = component["patches"]
    (change,) = yaml.safe_load(patch["patch"])
    assert change["value"] == {"dtkd-service/lock-sha256": "a" * 64}
    # It builds with the rest.
    folder = tmp_path / "overlay"
    folder.mkdir()
    cluster = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "dtkd"}}
    (folder / "cluster.yaml").write_text(json.dumps(cluster))
    (tmp_path / "images").mkdir()
    images.rename(tmp_path / "images" / "kustomization.yaml")
    (folder / "kustomization.yaml").write_text(
        json.dumps({"resources": ["cluster.yaml"], "components": ["../images"]})
    )
    assert build(folder)[0]["metadata"]["annotations"] == change["value"]


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("#!/bin/sh\necho 'manifest unknown' >&2; exit 1\n", "manifest unknown; push it"),
        (SKOPEO.format(python=sys.executable, lock=""), "have no label dtkd-service.lock-sha256"),
    ],
)
def test_images_that_cannot_be_pinned_change_nothing(tmp_path, monkeypatch, program, expected):
    _skopeo(tmp_path / "bin", monkeypatch, program)
    before = pin_images.IMAGES.read_text()
    with pytest.raises(BadInputError, match=expected):
        pin_images.pin_images(["--registry", "r.example.com", "--tag", "1.0"])
    assert pin_images.IMAGES.read_text() == before


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
