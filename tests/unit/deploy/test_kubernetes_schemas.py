"""Manifests against Kubernetes' schemas, and against CustomResourceDefinitions."""

import copy

import pytest
import yaml
from check import check
from checks.schemas import (
    CRD_FILES,
    is_ray,
    kubernetes_problems,
    ray_problems,
    ray_validators,
    strict_schema,
)
from kubectl import overlays
from support.built_overlays import documents_of, find

from service.spec.errors import BadInputError

# As in KubeRay's own definitions, with what these tests change.
SPEC_SCHEMA = {
    "type": "object",
    "required": ["entrypoint"],
    "properties": {
        "entrypoint": {"type": "string"},
        "backoffLimit": {"type": "integer", "format": "int32"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "port": {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
        },
        "any": {"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": True},
        "rules": {
            "type": "array",
            "items": {"type": "object", "properties": {"policy": {"enum": ["A"]}}},
        },
    },
}


def test_overlays_are_valid():
    documents = [d for overlay in ("one-machine", "spot") for d in documents_of(overlay)]
    assert list(kubernetes_problems(documents)) == []
    assert {d["kind"] for d in documents if is_ray(d)} == set(CRD_FILES)


@pytest.mark.parametrize(
    ("kind", "path", "key", "value", "expected"),
    [
        ("Deployment", "spec", "replicas", "2", "mlflow, spec.replicas: '2' is not of type"),
        ("Deployment", "spec", "replica", 2, "'replica' was unexpected"),
        (
            "NetworkPolicy",
            "spec",
            "policyTypes",
            "Ingress",
            "NetworkPolicy redis, spec.policyTypes",
        ),
        ("CronJob", "spec", "schedule", 3, "CronJob postgres-backup, spec.schedule: 3 is not of"),
    ],
)
def test_what_kubernetes_refuses_is_found(kind, path, key, value, expected):
    names = {"Deployment": "mlflow", "NetworkPolicy": "redis", "CronJob": "postgres-backup"}
    document = find(documents_of(), kind, names[kind])
    document[path][key] = value
    (problem,) = kubernetes_problems([document])
    assert expected in str(problem)


def write_definitions(folder):
    schema = {
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": SPEC_SCHEMA,
        },
    }
    versions = [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]
    for name in CRD_FILES.values():
        (folder / name).write_text(yaml.safe_dump({"spec": {"versions": versions}}))
    return folder


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"port": "http"}, None),
        ({"port": 80}, None),
        ({"any": {"thing": 1}}, None),
        ({"labels": {"a": "b"}}, None),
        ({"rules": [{"policy": "A"}]}, None),
        ({"backoffLimits": 3}, "'backoffLimits' was unexpected"),
        ({"backoffLimit": "3"}, "RayJob run, spec.backoffLimit: '3' is not of type 'integer'"),
        ({"labels": {"a": 1}}, "spec.labels.a: 1 is not of type 'string'"),
        ({"rules": [{"policy": "B"}]}, "spec.rules.0.policy: 'B' is not one of ['A']"),
        ({"rules": [{"policies": "A"}]}, "'policies' was unexpected"),
        ({"entrypoint": None}, "spec.entrypoint: None is not of type 'string'"),
    ],
)
def test_what_a_definition_does_not_allow_is_found(tmp_path, changes, expected):
    validators = ray_validators(write_definitions(tmp_path))
    spec = {"entrypoint": "python", **changes}
    job = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "run"}, "spec": spec}
    problems = [str(problem) for problem in ray_problems([job], validators)]
    assert len(problems) == (expected is not None)
    assert all(expected in problem for problem in problems)


def test_schema_is_not_changed():
    before = copy.deepcopy(SPEC_SCHEMA)
    strict_schema(SPEC_SCHEMA)
    assert before == SPEC_SCHEMA


def test_check_says_what_it_has_checked_and_what_it_has_skipped(capsys, tmp_path):
    check([])
    counts, schemas = capsys.readouterr().out.splitlines()
    assert counts.startswith(f"{len(overlays())} overlays, ")
    assert counts.endswith(" objects, 20 rules: no problem")
    assert "KubeRay's skipped: give its CustomResourceDefinitions with CRDS=FOLDER" in schemas
    with pytest.raises(BadInputError, match=r"has no ray.io_rayclusters.yaml; give KubeRay's"):
        check(["--crds", str(tmp_path)])
    with pytest.raises(BadInputError, match="has no digest; run make pin-images"):
        check(["--release"])
