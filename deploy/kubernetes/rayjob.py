"""Renders a run as a RayJob, out of the standing cluster of an overlay.

The RayJob's cluster is its own. It has a fixed number of workers, and neither an autoscaler nor a
control service that outlives its head: if the head ends, KubeRay starts the job again on a new
cluster, and the run resumes from its last checkpoint.
"""

import copy
import hashlib
import math
import re
from typing import NamedTuple

from checks.manifests import Document, autoscalers, label
from external import NAMESPACE
from run_spec import Run

from service.spec.errors import BadInputError, Problem

RUN_LABEL = "dtkd-run"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
GPU = "nvidia.com/gpu"
HOUR_S = 3600
# The head, which has Ray's logs, stays a day, and the RayJob, which says how it ended, a week.
KEEP_CLUSTER_S = 24 * HOUR_S
KEEP_JOB_S = 7 * 24 * HOUR_S
QUANTITY = re.compile(r"([0-9.]+)(m|Ki|Mi|Gi|Ti|)")
FACTORS = {"": 1.0, "m": 1e-3, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
SUBMITTER_RESOURCES = {
    "requests": {"cpu": "200m", "memory": "512Mi", "ephemeral-storage": "100Mi"},
    "limits": {"memory": "1Gi", "ephemeral-storage": "1Gi"},
}


class Options(NamedTuple):
    """How a run is submitted."""

    deadline_s: int
    """Seconds after which it is ended, with all its retries."""
    num_retries: int
    """New clusters after the first, each of which resumes the run."""
    queue: str | None = None
    """Kueue's queue that it waits in."""
    num_confirmed: int = 0
    """A sweep: seeds that confirm its best settings."""


class Workers(NamedTuple):
    """The pods of a run's workers."""

    num_pods: int
    workers_per_pod: int


def render(cluster: Document, run: Run, options: Options) -> list[Document]:
    """The ConfigMap with the spec, the budget of the head, and, last, the RayJob.

    Raises:
        BadInputError: the overlay's cluster has no room for the run.
    """
    workers = fit_workers(cluster["spec"]["workerGroupSpecs"][0], run)
    digest = hashlib.sha256(run.text.encode()).hexdigest()[:8]
    spec_name = f"{run.name}-spec-{digest}"
    metadata = {"namespace": NAMESPACE, "labels": {RUN_LABEL: run.name}}
    cluster_name = f"rayjob-{run.name}"
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": spec_name, **metadata},
        "immutable": True,
        "data": {"spec.json": run.text},
    }
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": cluster_name, **metadata},
        "spec": {
            "minAvailable": 1,
            "selector": {"matchLabels": {"app": "ray-head", "cluster": cluster_name}},
        },
    }
    spec = {
        "entrypoint": entrypoint(run, options),
        "activeDeadlineSeconds": options.deadline_s,
        "backoffLimit": options.num_retries,
        **ending(options),
        "submitterPodTemplate": submitter(cluster),
        "rayClusterSpec": run_cluster(cluster, run, workers, spec_name),
    }
    labels = {RUN_LABEL: run.name, **({QUEUE_LABEL: options.queue} if options.queue else {})}
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": run.name, "namespace": NAMESPACE, "labels": labels},
        "spec": spec,
    }
    return [config_map, budget, job]


def entrypoint(run: Run, options: Options) -> str:
    """The command that the head runs."""
    confirm = f" --confirm {options.num_confirmed}" if options.num_confirmed else ""
    return f"python /opt/dtkd-service/jobs/{run.script}.py /spec/spec.json{confirm}"


def ending(options: Options) -> Document:
    """What is deleted when the run has ended, and how long after.

    Kueue takes only jobs that give all their pods back; then Ray's logs go with the head.
    """
    if options.queue:
        return {"shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": 0}
    steps = (("DeleteWorkers", 0), ("DeleteCluster", KEEP_CLUSTER_S), ("DeleteSelf", KEEP_JOB_S))
    # The second also holds where the deadline has passed, or the retries are used up.
    conditions = ({"jobStatus": "SUCCEEDED"}, {"jobDeploymentStatus": "Failed"})
    rules = [
        {"policy": policy, "condition": {**condition, "ttlSeconds": delay_s}}
        for condition in conditions
        for policy, delay_s in steps
    ]
    return {"deletionStrategy": {"deletionRules": rules}}


def submitter(cluster: Document) -> Document:
    """The pod that submits the job and prints its log, as restricted as the head's."""
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    ray = head["containers"][0]
    container = {
        "name": "ray-job-submitter",
        "image": ray["image"],
        "securityContext": ray["securityContext"],
        "env": [{"name": "HOME", "value": "/tmp/home"}],
        "resources": SUBMITTER_RESOURCES,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "priorityClassName": head["priorityClassName"],
        "securityContext": head["securityContext"],
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "500Mi"}}],
    }
    kept = {key: head[key] for key in ("affinity", "tolerations", "nodeSelector") if key in head}
    return {"metadata": {"labels": {"app": "ray-submitter"}}, "spec": {**spec, **kept}}


def run_cluster(cluster: Document, run: Run, workers: Workers, spec_name: str) -> Document:
    """The overlay's cluster with the run's spec and workers."""
    (autoscaler,) = autoscalers(cluster)
    own_mounts = {mount["name"] for mount in autoscaler["volumeMounts"]}
    left_out = ("gcsFaultToleranceOptions", "enableInTreeAutoscaling", "autoscalerOptions")
    spec = {
        key: copy.deepcopy(value) for key, value in cluster["spec"].items() if key not in left_out
    }
    head, (group,) = spec["headGroupSpec"]["template"], spec["workerGroupSpecs"]
    del head["spec"]["serviceAccountName"]
    container = head["spec"]["containers"][0]
    own_mounts -= {mount["name"] for mount in container["volumeMounts"]}
    volumes = [volume for volume in head["spec"]["volumes"] if volume["name"] not in own_mounts]
    volumes.append({"name": "spec", "configMap": {"name": spec_name}})
    head["spec"]["volumes"] = volumes
    container["volumeMounts"].append({"name": "spec", "mountPath": "/spec", "readOnly": True})
    for template in (head, group["template"]):
        template["metadata"]["labels"] |= {"cluster": f"rayjob-{run.name}", RUN_LABEL: run.name}
    for key in ("replicas", "minReplicas", "maxReplicas"):
        group[key] = workers.num_pods
    resources = group["template"]["spec"]["containers"][0]["resources"]
    shrink(resources, run, workers.workers_per_pod)
    return spec


def fit_workers(group: Document, run: Run) -> Workers:
    """Pods of an overlay's group of workers for a run; smaller ones if it needs less than one.

    Raises:
        BadInputError: a worker does not fit into a pod, or there are more than the group may have.
    """
    needed = run.resources
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    cores, gpus = amount(limits["cpu"]), amount(limits.get(GPU, "0"))
    most = group["maxReplicas"]
    per_pod = int(min(cores // needed.cpus_per_worker, gpus if needed.gpu else cores))
    if needed.gpu and not gpus:
        _refuse("resources.gpu", "is true, and the overlay has no GPUs", "use overlay gpu or spot")
    if gpus and not needed.gpu:
        _refuse("resources.gpu", "is false, and the overlay has GPUs", "set it, or use overlay cpu")
    if not per_pod:
        wrong = f"is {needed.cpus_per_worker}, and a pod of the overlay has {cores:g} cores"
        _refuse("resources.cpus_per_worker", wrong, "request fewer")
    room = per_pod * most
    if needed.max_workers > room:
        wrong = f"is {needed.max_workers}, and the overlay has room for {room}"
        _refuse(
            "resources.num_workers", wrong, "request fewer, or raise maxReplicas of the overlay"
        )
    # A sweep that names no concurrency, or one that does not fit, gets the whole cluster.
    concurrency = min(run.max_concurrency, room // needed.max_workers)
    total = concurrency * needed.max_workers
    return Workers(math.ceil(total / per_pod), min(per_pod, total))


def shrink(resources: Document, run: Run, workers_per_pod: int) -> None:
    """Set what a pod requests for this many workers: cores, GPUs, and a share of memory."""
    needed, limits = run.resources, resources["limits"]
    cores = workers_per_pod * needed.cpus_per_worker
    share = cores / amount(limits["cpu"])
    if needed.gpu:
        share = max(share, workers_per_pod / amount(limits[GPU]))
    for part in resources.values():
        memory_mib = math.ceil(amount(part["memory"]) * share / FACTORS["Mi"])
        part |= {"cpu": str(cores), "memory": f"{memory_mib}Mi"}
        if needed.gpu:
            part[GPU] = str(workers_per_pod)


def amount(quantity: str | int) -> float:
    """The number of a quantity of Kubernetes, such as 500m, 16 or 64Gi."""
    found = QUANTITY.fullmatch(str(quantity))
    assert found, quantity
    return float(found[1]) * FACTORS[found[2]]


def standing_cluster(documents: list[Document]) -> Document:
    """The one Ray cluster of an overlay's platform."""
    (cluster,) = (document for document in documents if document["kind"] == "RayCluster")
    assert cluster["spec"]["workerGroupSpecs"], label(cluster)
    return cluster


def _refuse(where: str, wrong: str, remedy: str) -> None:
    raise BadInputError("spec", [Problem(where, wrong, remedy)])
