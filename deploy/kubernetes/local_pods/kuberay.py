"""What KubeRay's operator makes of a RayCluster: the pods that it would create.

After ray-operator/controllers/ray/common/{pod,job}.go of KubeRay 1.7. The autoscaler's container is
left out: it needs Kubernetes' API.
"""

import copy
from typing import Any

from checks.manifests import Document
from rayjob import amount

GCS_PORT, DASHBOARD_PORT = 6379, 8265
SHELL = ["/bin/bash", "-c", "--"]
# Seconds that a raylet waits for a control service that has gone.
RECONNECT_TIMEOUT_S = "600"
WAIT_FOR_HEAD = "until ray health-check --address {address} >/dev/null 2>&1; do sleep 5; done"
WAIT_RESOURCES = {"cpu": "200m", "memory": "256Mi"}


def head_service(cluster: Document) -> str:
    """The name that pods of the namespace reach the head by."""
    return f"{cluster['metadata']['name']}-head-svc"


def head_pod(cluster: Document) -> Document:
    """The template of the head's pod."""
    group = cluster["spec"]["headGroupSpec"]
    template = copy.deepcopy(group["template"])
    parameters = {**group["rayStartParams"], "no-monitor": "true"}
    ray = template["spec"]["containers"][0]
    store = cluster["spec"]["gcsFaultToleranceOptions"]
    parameters["redis-password"] = "$REDIS_PASSWORD"
    ray["env"] += [
        {"name": "RAY_ENABLE_AUTOSCALER_V2", "value": "true"},
        {"name": "RAY_external_storage_namespace", "value": cluster["metadata"]["name"]},
        {"name": "RAY_REDIS_ADDRESS", "value": store["redisAddress"]},
        {"name": "REDIS_PASSWORD", **store["redisPassword"]},
    ]
    # The logs that the autoscaler shares with the head.
    template["spec"]["volumes"].append({"name": "ray-logs", "emptyDir": {}})
    ray["volumeMounts"].append({"name": "ray-logs", "mountPath": "/tmp/ray"})
    command = f"ray start --head {_flags(parameters, ray)}"
    _complete(cluster, template, command, "127.0.0.1", "headgroup")
    return template


def worker_pod(cluster: Document) -> Document:
    """The template of a worker's pod."""
    (group,) = cluster["spec"]["workerGroupSpecs"]
    template = copy.deepcopy(group["template"])
    ray, service = template["spec"]["containers"][0], head_service(cluster)
    address = f"{service}:{GCS_PORT}"
    wait = {
        key: copy.deepcopy(ray[key]) for key in ("image", "securityContext", "env", "volumeMounts")
    }
    wait |= {
        "name": "wait-gcs-ready",
        "command": SHELL,
        "args": [WAIT_FOR_HEAD.format(address=address)],
    }
    wait["resources"] = {"requests": WAIT_RESOURCES, "limits": WAIT_RESOURCES}
    wait["env"] += authentication(cluster)
    template["spec"]["initContainers"] = [wait]
    timeout = {"name": "RAY_gcs_rpc_server_reconnect_timeout_s", "value": RECONNECT_TIMEOUT_S}
    ray["env"].append(timeout)
    parameters = {**group["rayStartParams"], "address": address}
    command = f"ray start {_flags(parameters, ray)}"
    _complete(cluster, template, command, service, group["groupName"])
    return template


def submitter_pod(cluster: Document, job: Document, entrypoint: str, *, token: bool) -> Document:
    """The template of the pod that submits a command to the cluster, with its token or without."""
    template: Document = copy.deepcopy(job["spec"]["submitterPodTemplate"])
    (container,) = template["spec"]["containers"]
    address, name = f"http://{head_service(cluster)}:{DASHBOARD_PORT}", job["metadata"]["name"]
    submit = f"ray job submit --address {address} --no-wait --submission-id {name} -- {entrypoint}"
    follow = f"ray job logs --address {address} --follow {name}"
    container |= {"command": ["/bin/bash", "-ce", "--"], "args": [f"{submit} ; {follow}"]}
    container["env"].append({"name": "PYTHONUNBUFFERED", "value": "1"})
    if token:
        container["env"] += authentication(cluster)
    return template


def authentication(cluster: Document) -> list[dict[str, Any]]:
    """The token in the environment."""
    options = cluster["spec"]["authOptions"]
    reference = {"secretKeyRef": {"name": options["secretName"], "key": "auth_token"}}
    return [
        {"name": "RAY_AUTH_MODE", "value": options["mode"]},
        {"name": "RAY_AUTH_TOKEN", "valueFrom": reference},
    ]


def _complete(cluster: Document, template: Document, command: str, head: str, group: str) -> None:
    """Give a pod's first container its command, and the variables that all of them have."""
    ray = template["spec"]["containers"][0]
    ray |= {
        "command": SHELL,
        "args": [f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {command}"],
    }
    own_name = {"fieldRef": {"fieldPath": "metadata.name"}}
    ray["env"] += authentication(cluster)
    ray["env"].append({"name": "RAY_CLOUD_INSTANCE_ID", "valueFrom": own_name})
    ray["env"] += [
        {"name": name, "value": value}
        for name, value in (
            ("FQ_RAY_IP", head),
            ("RAY_CLUSTER_NAME", cluster["metadata"]["name"]),
            ("RAY_NODE_TYPE_NAME", group),
            ("KUBERAY_GEN_RAY_START_CMD", command),
            ("RAY_PORT", str(GCS_PORT)),
            ("RAY_ADDRESS", f"{head}:{GCS_PORT}"),
            ("RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE", "1"),
        )
    ]


def _flags(parameters: dict[str, str], container: Document) -> str:
    limits = container["resources"]["limits"]
    complete = {
        "num-cpus": str(int(amount(limits["cpu"]))),
        "memory": str(int(amount(limits["memory"]))),
        **parameters,
        "block": "true",
    }
    return " ".join(
        f"--{name}" if value == "true" else f"--{name}={value}"
        for name, value in sorted(complete.items())
    )
