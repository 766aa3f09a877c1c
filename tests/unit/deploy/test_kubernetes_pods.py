"""The rules for pods fail on copies of the built manifests that break them."""

import copy

import pytest
from check import rules
from checks.manifests import pods
from support.built_overlays import (
    cluster_of,
    container_of,
    documents_of,
    pod_of,
    problems_of_rule,
    rules_of,
)

BROKEN = [
    (
        "pods_are_restricted",
        lambda d: pod_of(d, "redis").spec["securityContext"].pop("runAsUser"),
        "may run as root",
    ),
    (
        "pods_are_restricted",
        lambda d: pod_of(d, "mlflow").spec["securityContext"].update(runAsNonRoot=False),
        "may run as root",
    ),
    (
        "pods_are_restricted",
        lambda d: pod_of(d, "ray-submitter").spec["securityContext"].pop("seccompProfile"),
        "no seccomp profile",
    ),
    (
        "pods_are_restricted",
        lambda d: container_of(d, "ray-worker").pop("securityContext"),
        "keeps capabilities",
    ),
    (
        "pods_are_restricted",
        lambda d: cluster_of(d)["autoscalerOptions"].pop("securityContext"),
        "container autoscaler: securityContext.allowPrivilegeEscalation is not false",
    ),
    (
        "pods_are_restricted",
        lambda d: pod_of(d, "mlflow").spec["initContainers"][0].pop("securityContext"),
        "container wait-for-database: keeps capabilities",
    ),
    (
        "pods_are_restricted",
        lambda d: container_of(d, "redis")["securityContext"].update(readOnlyRootFilesystem=False),
        "readOnlyRootFilesystem is not true",
    ),
    (
        "pods_are_restricted",
        lambda d: container_of(d, "redis")["securityContext"]["capabilities"].update(
            add=["SYS_ADMIN"]
        ),
        "adds capability SYS_ADMIN",
    ),
    (
        "pods_are_restricted",
        lambda d: container_of(d, "redis")["securityContext"].update(privileged=True),
        "is privileged",
    ),
    (
        "pods_are_restricted",
        lambda d: pod_of(d, "redis").spec.update(hostNetwork=True),
        "has hostNetwork",
    ),
    (
        "pods_are_restricted",
        lambda d: container_of(d, "redis")["ports"][0].update(hostPort=6379),
        "has a port of the host",
    ),
    (
        "pods_are_restricted",
        lambda d: (
            pod_of(d, "redis").spec["volumes"].append({"name": "root", "hostPath": {"path": "/"}})
        ),
        "volume root is a hostPath",
    ),
    (
        "resources_are_set",
        lambda d: container_of(d, "ray-head")["resources"]["limits"].pop("memory"),
        "has no limits of memory",
    ),
    (
        "resources_are_set",
        lambda d: container_of(d, "postgres-backup")["resources"]["requests"].pop(
            "ephemeral-storage"
        ),
        "has no requests of ephemeral-storage",
    ),
    (
        "resources_are_set",
        lambda d: pod_of(d, "redis").spec["volumes"].append({"name": "tmp2", "emptyDir": {}}),
        "volume tmp2 has no limit",
    ),
    (
        "probes_are_set",
        lambda d: container_of(d, "mlflow").pop("livenessProbe"),
        "no livenessProbe",
    ),
    ("probes_are_set", lambda d: container_of(d, "ray-worker").pop("startupProbe"), "no startupPr"),
    (
        "ends_leave_time",
        lambda d: pod_of(d, "ray-worker").spec.update(terminationGracePeriodSeconds=120),
        "terminationGracePeriodSeconds is 120, and 120 s may be needed",
    ),
    (
        "ends_leave_time",
        lambda d: pod_of(d, "ray-head").spec.pop("terminationGracePeriodSeconds"),
        "terminationGracePeriodSeconds is 30, and 120 s may be needed",
    ),
    (
        "ends_leave_time",
        lambda d: container_of(d, "ray-head").update(env=[]),
        "the head has no RAY_JOB_STOP_WAIT_TIME_S",
    ),
    (
        "data_is_read_only",
        lambda d: container_of(d, "ray-worker")["volumeMounts"][0].pop("readOnly"),
        "can write dtkd-data",
    ),
    (
        "data_is_read_only",
        lambda d: pod_of(d, "ray-head").spec["volumes"][0]["persistentVolumeClaim"].pop("readOnly"),
        "can write dtkd-data",
    ),
    (
        "tokens_are_not_mounted",
        lambda d: pod_of(d, "ray-worker").spec.pop("automountServiceAccountToken"),
        "every container gets a token",
    ),
    (
        "tokens_are_not_mounted",
        lambda d: container_of(d, "ray-head")["volumeMounts"].append(
            {"name": "kubernetes-token", "mountPath": "/token"}
        ),
        "container ray-head: mounts a token",
    ),
    (
        "images_are_fixed",
        lambda d: container_of(d, "redis").update(image="redis:latest"),
        "image redis:latest has no tag that stays",
    ),
    ("images_are_fixed", lambda d: container_of(d, "redis").update(image="redis"), "has no tag"),
]


@pytest.mark.parametrize(("name", "break_it", "expected"), BROKEN)
def test_broken_pods_are_found(name, break_it, expected):
    documents = documents_of()
    break_it(documents)
    assert any(expected in problem for problem in problems_of_rule(name, documents))


def test_a_release_needs_digests():
    rule = rules(release=True)["images_are_fixed"]
    documents = documents_of()
    assert len(list(rule(documents))) > 5
    for pod in pods(documents):
        for container in pod.containers:
            container["image"] = "registry.example.com/team/image@sha256:" + "0" * 64
    documents[:] = [copy.deepcopy(d) for d in documents if d["kind"] != "RayCluster"]
    assert list(rule(documents)) == []


def test_every_rule_has_a_broken_copy():
    assert {name for name, _, _ in BROKEN} == rules_of("pods")
