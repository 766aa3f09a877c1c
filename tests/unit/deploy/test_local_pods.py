"""Pods for podman: their volumes, what KubeRay adds to them, and their firewalls."""

import copy
import shlex
from pathlib import Path

import pytest
from checks.manifests import Pod, pods
from local_pods.firewall import firewall
from local_pods.kuberay import head_pod, submitter_pod, worker_pod
from local_pods.playable import Surroundings, memory_folders, playable_pod
from local_pods.stand_ins import TARGETS
from support.built_overlays import documents_of, find

FOLDER = Path("/volumes")
AROUND = Surroundings(
    {"redis:1": "localhost/redis"}, FOLDER, {"redis": "10.0.0.2", "mlflow": "10.0.0.3"}
)
TEMPLATE = {
    "metadata": {"labels": {"app": "redis"}},
    "spec": {
        "securityContext": {"runAsUser": 999, "fsGroup": 999},
        "restartPolicy": "Always",
        "containers": [
            {
                "name": "redis",
                "image": "redis:1",
                "ports": [{"containerPort": 6379}],
                "livenessProbe": {"exec": {"command": ["true"]}},
                "securityContext": {"readOnlyRootFilesystem": True},
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data", "readOnly": True},
                    {"name": "config", "mountPath": "/config"},
                    {"name": "config", "mountPath": "/one.sh", "subPath": "one.sh"},
                    {"name": "tmp", "mountPath": "/tmp"},
                    {"name": "shm", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "claim"}},
            {"name": "config", "configMap": {"name": "settings"}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "512Mi"}},
            {"name": "kubernetes-token", "projected": {}},
        ],
    },
}


def test_volumes_are_folders_and_files_of_the_machine():
    before = copy.deepcopy(TEMPLATE)
    pod = playable_pod("redis", TEMPLATE, AROUND)
    assert before == TEMPLATE
    (container,) = pod["spec"]["containers"]
    paths = {v["name"]: v["hostPath"]["path"] for v in pod["spec"]["volumes"]}
    mounted = {m["mountPath"]: paths[m["name"]] for m in container["volumeMounts"]}
    assert mounted == {
        "/data": "/volumes/claim",
        "/config": "/volumes/settings",
        "/one.sh": "/volumes/settings/one.sh",
        "/tmp": "/volumes/redis-tmp",
        "/dev/shm": "/volumes/redis-shm",
    }
    assert container["volumeMounts"][0]["readOnly"]
    assert memory_folders("redis", TEMPLATE, FOLDER) == {Path("/volumes/redis-shm"): 512 * 2**20}


def test_what_podman_would_do_otherwise_is_left_out():
    pod = playable_pod("redis", TEMPLATE, AROUND)
    (container,) = pod["spec"]["containers"]
    assert not {"ports", "livenessProbe"} & container.keys()
    assert container["image"] == "localhost/redis"
    assert container["securityContext"] == {"readOnlyRootFilesystem": True}
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["hostAliases"] == [
        {"ip": "10.0.0.2", "hostnames": ["redis"]},
        {"ip": "10.0.0.3", "hostnames": ["mlflow"]},
    ]


def environment(container):
    return {v["name"]: v.get("value") or v["valueFrom"] for v in container["env"]}


@pytest.fixture(scope="module")
def ray():
    return find(documents_of("one-machine"), "RayCluster")


def test_head_starts_as_kuberay_starts_it(ray):
    container = head_pod(ray)["spec"]["containers"][0]
    assert container["command"] == ["/bin/bash", "-c", "--"]
    words = shlex.split(container["args"][0].split("; ")[1])
    assert words[:3] == ["ray", "start", "--head"]
    assert {"--block", "--no-monitor", "--num-cpus=0", "--redis-password=$REDIS_PASSWORD"} < {
        *words
    }
    found = environment(container)
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_AUTH_TOKEN"] == {"secretKeyRef": {"name": "dtkd-ray", "key": "auth_token"}}
    assert found["RAY_REDIS_ADDRESS"] == "redis:6379"
    assert found["RAY_ADDRESS"] == "127.0.0.1:6379"


def test_worker_waits_for_the_head_and_joins_it(ray):
    spec = worker_pod(ray)["spec"]
    (wait,) = spec["initContainers"]
    assert "ray health-check --address dtkd-head-svc:6379" in wait["args"][0]
    assert wait["securityContext"] == spec["containers"][0]["securityContext"]
    words = shlex.split(spec["containers"][0]["args"][0].split("; ")[1])
    # Of the limits of the overlay's worker: 2 cores and 6Gi.
    assert {"--address=dtkd-head-svc:6379", "--num-cpus=2", f"--memory={6 * 2**30}"} < {*words}


@pytest.mark.parametrize("token", [True, False])
def test_submitter_has_the_token_or_not(ray, token):
    job = find(documents_of("one-machine"), "RayJob")
    (container,) = submitter_pod(ray, job, "python job.py", token=token)["spec"]["containers"]
    assert ("RAY_AUTH_TOKEN" in environment(container)) == token
    submit = container["args"][0].split(" ; ")[0]
    assert submit.startswith("ray job submit --address http://dtkd-head-svc:8265 ")
    assert submit.endswith(" -- python job.py")


def policy(name, app, direction, peers, other, port):
    return {
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "podSelector": {"matchLabels": {"app": app}},
            "policyTypes": [direction],
            direction.lower(): [
                {peers: [{"podSelector": {"matchLabels": {"app": other}}}], "ports": port}
            ],
        },
    }


def test_firewall_opens_what_policies_open_and_drops_the_rest():
    documents = [
        policy("in", "db", "Ingress", "from", "web", [{"port": 5432}]),
        policy("out", "db", "Egress", "to", "log", [{"port": 10, "endPort": 20}]),
        policy("other", "web", "Ingress", "from", "db", [{"port": 1}]),
    ]
    named = {
        app: Pod({"kind": "Pod"}, "", {"metadata": {"labels": {"app": app}}})
        for app in ("db", "web", "log")
    }
    peers = {"10.0.0.2": named["web"], "10.0.0.3": named["log"]}
    lines = firewall(documents, named["db"], peers, "10.0.0.1").splitlines()
    assert {":INPUT DROP [0:0]", ":OUTPUT DROP [0:0]"} < {*lines}
    opened = [line for line in lines if "--dport" in line]
    assert opened == [
        "-A INPUT -p tcp -s 10.0.0.2 --dport 5432:5432 -j ACCEPT",
        "-A OUTPUT -p tcp -d 10.0.0.3 --dport 10:20 -j ACCEPT",
    ]
    assert lines[-1] == "COMMIT"
    assert "-A INPUT -s 10.0.0.1 -j ACCEPT" in lines


def test_every_image_of_the_overlay_has_one_to_run():
    images = {c["image"] for pod in pods(documents_of("one-machine")) for c in pod.containers}
    names = {image.split(":")[0].split("@")[0] for image in images}
    assert names == {"dtkd-service", *TARGETS}
