"""Digests of images: looked up, kept beside their tags, and refused with another lock."""

import hashlib
import json
import sys
from pathlib import Path

import apply
import pin_images
import pytest
import yaml
from check import rules
from checks.pods import images_are_fixed
from kubectl import build
from submit import submit
from support.built_overlays import documents_of, find

from service.spec.errors import BadInputError

ROOT = Path(__file__).parents[3]
LOCK_SHA256 = hashlib.sha256((ROOT / "deploy/requirements/runtime.txt").read_bytes()).hexdigest()
ARGUMENTS = ["--registry", "registry.example.com/team", "--tag", "1.0"]
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
    text = SKOPEO.format(python=sys.executable, lock=LOCK_SHA256)
    _skopeo(tmp_path / "bin", monkeypatch, text)
    images = tmp_path / "kustomization.yaml"
    images.write_text(pin_images.IMAGES.read_text())
    monkeypatch.setattr(pin_images, "IMAGES", images)
    pin_images.pin_images(ARGUMENTS)
    component = yaml.safe_load(images.read_text())
    entries = {image["name"]: image for image in component["images"]}
    fields = {"name", "newName", "newTag", "digest"}
    assert all(set(image) == fields for image in entries.values())
    asked = "docker://registry.example.com/team/dtkd-service:1.0-cuda"
    assert entries["dtkd-service-cuda"]["newName"] == "registry.example.com/team/dtkd-service"
    assert int(entries["dtkd-service-cuda"]["digest"][7:], 16) == sum(asked.encode())
    assert entries["postgres"]["newName"] == "postgres"
    (patch,) = component["patches"]
    (change,) = yaml.safe_load(patch["patch"])
    assert change["value"] == {"dtkd-service/lock-sha256": LOCK_SHA256}
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


def test_tags_are_looked_up_again(tmp_path, monkeypatch):
    _skopeo(tmp_path / "bin", monkeypatch, SKOPEO.format(python=sys.executable, lock=LOCK_SHA256))
    images = tmp_path / "kustomization.yaml"
    text = pin_images.IMAGES.read_text()
    tags = {i["name"]: i["newTag"] for i in yaml.safe_load(text)["images"]}
    fixed = {"name": "other", "newName": "r.example.com/other", "digest": f"sha256:{'1' * 64}"}
    images.write_text(
        json.dumps({**yaml.safe_load(text), "images": [*yaml.safe_load(text)["images"], fixed]})
    )
    monkeypatch.setattr(pin_images, "IMAGES", images)
    pin_images.pin_images(ARGUMENTS)
    first = {image["name"]: image for image in yaml.safe_load(images.read_text())["images"]}
    assert all(first[name]["newTag"] == tags[name] for name in tags if "dtkd" not in name)
    # A tag now means something else.
    moved = SKOPEO.replace("sum(name.encode())", "(1 + sum(name.encode()))")
    program = tmp_path / "bin" / "skopeo"
    program.write_text(moved.format(python=sys.executable, lock=LOCK_SHA256))
    pin_images.pin_images(["--registry", "registry.example.com/team", "--tag", "1.1"])
    second = {image["name"]: image for image in yaml.safe_load(images.read_text())["images"]}
    for name in ("postgres", "redis", "chrislusf/seaweedfs"):
        assert int(second[name]["digest"][7:], 16) == int(first[name]["digest"][7:], 16) + 1
        assert second[name]["newTag"] == first[name]["newTag"]
    assert second["dtkd-service"]["newTag"] == "1.1-cpu"
    assert second["other"] == fixed


def test_digest_is_what_runs_where_there_is_a_tag_too(tmp_path):
    """And a reader of the pod sees both."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    pod["spec"] = {"containers": [{"name": "c", "image": "redis"}]}
    digest = f"sha256:{'a' * 64}"
    entry = {"name": "redis", "newName": "redis", "newTag": "7.4", "digest": digest}
    (tmp_path / "pod.yaml").write_text(json.dumps(pod))
    (tmp_path / "kustomization.yaml").write_text(
        json.dumps({"resources": ["pod.yaml"], "images": [entry]})
    )
    (built,) = build(tmp_path)
    assert built["spec"]["containers"][0]["image"] == f"redis:7.4@{digest}"
    assert list(images_are_fixed([built], release=True)) == []


SHELL = "#!/bin/sh\n"
OTHER_LOCK = SKOPEO.format(python=sys.executable, lock="0" * 64)
NO_LOCK = SKOPEO.format(python=sys.executable, lock="")


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (f"{SHELL}echo 'manifest unknown' >&2; exit 1\n", "manifest unknown; push it"),
        (f"{SHELL}echo no JSON\n", "printed no JSON object; update skopeo"),
        (f"{SHELL}echo '[1]'\n", "printed no JSON object; update skopeo"),
        (f"{SHELL}echo '{{}}'\n", "has no SHA-256 digest, but None; push it"),
        (f'{SHELL}echo \'{{"Digest": "md5:1"}}\'\n', "has no SHA-256 digest, but 'md5:1'; push"),
        (f"{SHELL}printf '\\377'\n", "cannot be looked up: .*skopeo: "),
        ("no program\n", "cannot be looked up: .*skopeo: .*; install skopeo"),
        (f"{SHELL}exec sleep 60\n", "the registry did not answer in 1 s; run this again"),
        (NO_LOCK, "1.0-cpu: has no label dtkd-service.lock-sha256; build it"),
        (OTHER_LOCK, "1.0-cpu: was built with another deploy/requirements/runtime.txt; build it"),
    ],
)
def test_images_that_cannot_be_pinned_change_nothing(tmp_path, monkeypatch, program, expected):
    monkeypatch.setattr(pin_images, "TIMEOUT_S", 1)
    _skopeo(tmp_path / "bin", monkeypatch, program)
    before = pin_images.IMAGES.read_text()
    with pytest.raises(BadInputError, match=expected) as caught:
        pin_images.pin_images(ARGUMENTS)
    assert len(caught.value.problems) == 1
    assert pin_images.IMAGES.read_text() == before


def _platform_of_lock(lock):
    documents = documents_of("cpu")
    find(documents, "RayCluster")["metadata"]["annotations"] = {"dtkd-service/lock-sha256": lock}
    return documents


def test_image_of_another_lock_is_refused_by_all_that_use_it(
    ready_cluster, monkeypatch, write_pod_spec
):
    other, own = _platform_of_lock("0" * 64), _platform_of_lock(LOCK_SHA256)
    expected = "components/images: the pinned image of RayCluster dtkd was built with another"
    monkeypatch.setattr(apply, "build", lambda _: other)
    monkeypatch.setattr("submit.build", lambda _: other)
    with pytest.raises(BadInputError, match=expected):
        apply.apply(["cpu", "platform"])
    with pytest.raises(BadInputError, match=expected):
        submit([str(write_pod_spec()), "--overlay", "cpu"])
    assert ready_cluster.arguments == []
    rule = rules(release=True)["images_have_the_lock"]
    assert expected in "".join(str(problem) for problem in rule(other))
    assert list(rule(own)) == []
    # Images that were built here and never pinned.
    assert list(rule(documents_of("cpu"))) == []
    monkeypatch.setattr(apply, "build", lambda _: own)
    apply.apply(["cpu", "platform"])
    assert [verb for verb, _ in ready_cluster.sent] == ["apply"]
