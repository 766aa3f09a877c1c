"""The manifests in deploy/kubernetes refer to what exists, also as kustomize builds them."""

import copy
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from support.manifests import at, containers, problems, referred, templates

from service.spec.job import JobSpec

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
# Where kustomize itself changes the names of generated ConfigMaps.
BUILT_IN_KINDS = {"Deployment", "Job", "StatefulSet", "DaemonSet", "CronJob", "Pod"}


def written():
    """The resources, with the generated ConfigMaps under the names that resources use."""
    documents = [
        document
        for name in KUSTOMIZATION["resources"]
        for document in yaml.safe_load_all((FOLDER / name).read_text())
    ]
    for generator in KUSTOMIZATION["configMapGenerator"]:
        data = {name: (FOLDER / name).read_text() for name in generator["files"]}
        metadata = {"name": generator["name"]}
        documents.append({"kind": "ConfigMap", "metadata": metadata, "data": data})
    return documents


def pods(documents):
    return [template["spec"] for document in documents for _, template in templates(document)]


def test_every_reference_has_its_object():
    documents = written()
    assert len(pods(documents)) == 3
    assert {kind for pod in pods(documents) for kind, _, _ in referred(pod)} == {
        "ConfigMap",
        "PersistentVolumeClaim",
    }
    assert list(problems(documents)) == []


def test_kustomize_is_told_where_other_kinds_name_generated_objects():
    generated = {generator["name"] for generator in KUSTOMIZATION["configMapGenerator"]}
    configured = {
        (field["kind"], field["path"])
        for name in KUSTOMIZATION["configurations"]
        for entry in yaml.safe_load((FOLDER / name).read_text())["nameReference"]
        if entry["kind"] == "ConfigMap"
        for field in entry["fieldSpecs"]
    }
    used = {
        (document["kind"], f"{path}.{place}".replace(".", "/"))
        for document in written()
        for path, template in templates(document)
        for kind, name, place in referred(template["spec"])
        if (kind == "ConfigMap" and name in generated) and document["kind"] not in BUILT_IN_KINDS
    }
    assert used
    assert used <= configured


def test_images_have_a_tag():
    given = {image["name"] for image in KUSTOMIZATION["images"]}
    used = {container["image"] for pod in pods(written()) for container in containers(pod)}
    assert used == given == {"dtkd-service"}


def test_spec_fits_the_pods():
    spec = JobSpec.model_validate(json.loads((FOLDER / "spec.json").read_text()))
    (ray_job,) = (document for document in written() if document["kind"] == "RayJob")
    (group,) = at(ray_job, "spec.rayClusterSpec.workerGroupSpecs")
    (container,) = at(group, "template.spec.containers")
    assert spec.resources.num_workers == group["replicas"]
    assert spec.resources.cpus_per_worker == int(container["resources"]["limits"]["cpu"])
    paths = [spec.dataset.train, spec.dataset.val, spec.teacher.weights.source]
    for path in [*paths, str(spec.checkpoints.storage_path)]:
        assert path.startswith("/storage/")
    for pod in pods([ray_job]):
        assert "/storage" in at(pod, "containers.volumeMounts.mountPath")
    head = at(ray_job, "spec.rayClusterSpec.headGroupSpec.template.spec.containers.volumeMounts")
    assert "/spec" in [mount["mountPath"] for mount in head]
    assert ray_job["spec"]["entrypoint"] == "python jobs/distill.py /spec/spec.json"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_built_manifests_are_consistent():
    command = ["kubectl", "kustomize", str(FOLDER)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    documents = list(yaml.safe_load_all(built))
    assert list(problems(documents)) == []
    images = {container["image"] for pod in pods(documents) for container in containers(pod)}
    assert images == {"dtkd-service:cpu"}
    namespaces = {d["metadata"].get("namespace") for d in documents if d["kind"] != "Namespace"}
    assert namespaces == {"dtkd"}


@pytest.mark.parametrize(
    ("kind", "path", "key", "value", "expected"),
    [
        ("ConfigMap", "metadata", "name", "dtkd-spec-1234", "no ConfigMap dtkd-spec"),
        ("PersistentVolumeClaim", "metadata", "name", "other", "no PersistentVolumeClaim dtkd-st"),
        ("Deployment", "spec.template.spec", "volumes", [], "no volume storage"),
        ("Deployment", "spec.template.spec", "serviceAccountName", "a", "no ServiceAccount a"),
        (
            "Deployment",
            "spec.template.spec.containers",
            "env",
            [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "no Secret s",
        ),
        ("Service", "metadata", "name", "tracking", "no service mlflow with port 5000"),
        ("Service", "spec", "selector", {"app": "other"}, "no pod behind port 5000"),
    ],
)
def test_broken_references_are_found(kind, path, key, value, expected):
    documents = copy.deepcopy(written())
    (document,) = (document for document in documents if document["kind"] == kind)
    at(document, path)[0][key] = value
    assert any(expected in problem for problem in problems(documents))
