"""Rules for pods: security, resources, probes, their end, and which images they run."""

import re
from collections.abc import Iterator

from checks.manifests import Document, Pod, at, cluster_specs, label, pods
from service.spec.errors import Problem

DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
TAG = re.compile(r":(?!latest$)[A-Za-z0-9_][\w.-]*$")
# https://kubernetes.io/docs/concepts/security/pod-security-standards/, restricted.
ALLOWED_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"),
    *("projected", "secret"),
}
HOST_FIELDS = ("hostNetwork", "hostPID", "hostIPC")
DATA_CLAIM = "dtkd-data"
# The one pod that may write data sets.
DATA_WRITERS = {"dtkd-loader"}
AUTOSCALER = "autoscaler"
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
KUBERNETES_GRACE_S = 30


def images_are_fixed(documents: list[Document], *, release: bool) -> Iterator[Problem]:
    """An image has a tag other than latest; in a release, a digest."""
    for pod in pods(documents):
        for container in pod.containers:
            image = container["image"]
            if not DIGEST.search(image) and (release or not TAG.search(image)):
                wrong = f"image {image} has no {'digest' if release else 'tag that stays'}"
                yield Problem(_place(pod, container), wrong, "run make pin-images")


def pods_are_restricted(documents: list[Document]) -> Iterator[Problem]:
    """Pod Security's restricted profile, for every container, and a read-only root."""
    for pod in pods(documents):
        security = pod.spec.get("securityContext", {})
        for field in HOST_FIELDS:
            if pod.spec.get(field):
                yield Problem(pod.owner, f"has {field}", "remove it")
        if not security.get("runAsUser"):
            yield Problem(pod.owner, "may run as root", "set runAsUser to a number above 0")
        if security.get("runAsNonRoot") is not True:
            yield Problem(pod.owner, "may run as root", "set runAsNonRoot: true")
        if at(security, "seccompProfile.type") not in (["RuntimeDefault"], ["Localhost"]):
            yield Problem(pod.owner, "has no seccomp profile", "set RuntimeDefault")
        for volume in pod.spec.get("volumes", []):
            if kinds := volume.keys() - {"name"} - ALLOWED_VOLUMES:
                wrong = f"volume {volume['name']} is a {kinds.pop()}"
                yield Problem(pod.owner, wrong, "use a claim or an emptyDir")
        for container in pod.containers:
            yield from _container_problems(pod, container)


def _container_problems(pod: Pod, container: Document) -> Iterator[Problem]:
    place, security = _place(pod, container), container.get("securityContext", {})
    for field, value in (
        ("allowPrivilegeEscalation", False),
        ("readOnlyRootFilesystem", True),
    ):
        if security.get(field) is not value:
            wrong = f"securityContext.{field} is not {str(value).lower()}"
            yield Problem(place, wrong, "set it")
    if "ALL" not in at(security, "capabilities.drop"):
        yield Problem(place, "keeps capabilities", "set capabilities: {drop: [ALL]}")
    if added := set(at(security, "capabilities.add")) - {"NET_BIND_SERVICE"}:
        yield Problem(place, f"adds capability {added.pop()}", "remove it")
    if security.get("privileged") or security.get("runAsUser") == 0:
        yield Problem(place, "is privileged or root", "remove it")
    if at(container, "ports.hostPort"):
        yield Problem(place, "has a port of the host", "use a Service")


def resources_are_set(documents: list[Document]) -> Iterator[Problem]:
    """Requests of cores, memory and disk, limits of memory and disk, and sizes of emptyDirs."""
    for pod in pods(documents):
        for container in pod.containers:
            resources = container.get("resources", {})
            for part, kinds in (
                ("requests", ("cpu", "memory", "ephemeral-storage")),
                ("limits", ("memory", "ephemeral-storage")),
            ):
                for kind in kinds:
                    if kind not in resources.get(part, {}):
                        yield Problem(_place(pod, container), f"has no {part} of {kind}", "set it")
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield Problem(pod.owner, f"volume {volume['name']} has no limit", "set sizeLimit")


def probes_are_set(documents: list[Document]) -> Iterator[Problem]:
    """What serves has all three probes."""
    for pod in pods(documents):
        for container in pod.main_containers if pod.is_serving else []:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe not in container:
                    yield Problem(_place(pod, container), f"has no {probe}", "add it")


def ends_leave_time(documents: list[Document]) -> Iterator[Problem]:
    """A pod is not killed while its hook, or a job that saves a checkpoint, still has time."""
    for pod in pods(documents):
        grace_s = pod.spec.get("terminationGracePeriodSeconds", KUBERNETES_GRACE_S)
        for container in pod.main_containers:
            hook = at(container, "lifecycle.preStop.exec.command")
            waits = [
                entry["value"] for entry in container.get("env", []) if entry["name"] == STOP_WAIT
            ]
            is_head = pod.path.endswith("headGroupSpec.template")
            for needed in [*hook[-1:], *(waits if is_head else [])]:
                if grace_s <= int(needed):
                    wrong = (
                        f"terminationGracePeriodSeconds is {grace_s}, and {needed} s may be needed"
                    )
                    yield Problem(_place(pod, container), wrong, "set more")
    for document in documents:
        for cluster in cluster_specs(document):
            names = at(cluster, "headGroupSpec.template.spec.containers.env.name")
            if STOP_WAIT not in names:
                yield Problem(label(document), f"the head has no {STOP_WAIT}", "set it")


def data_is_read_only(documents: list[Document]) -> Iterator[Problem]:
    """Data sets are mounted read-only."""
    for pod in pods(documents):
        if pod.document["metadata"]["name"] in DATA_WRITERS:
            continue
        volumes = [
            volume
            for volume in pod.spec.get("volumes", [])
            if DATA_CLAIM in at(volume, "persistentVolumeClaim.claimName")
        ]
        names = {volume["name"] for volume in volumes}
        mounts = [mount for c in pod.containers for mount in c.get("volumeMounts", [])]
        writable = [
            mount for mount in mounts if mount["name"] in names and not mount.get("readOnly")
        ]
        if writable or not all(
            volume["persistentVolumeClaim"].get("readOnly") for volume in volumes
        ):
            yield Problem(
                pod.owner, f"can write {DATA_CLAIM}", "set readOnly: true on volume and mount"
            )


def tokens_are_not_mounted(documents: list[Document]) -> Iterator[Problem]:
    """No container but the autoscaler has a token of Kubernetes."""
    for pod in pods(documents):
        if pod.spec.get("automountServiceAccountToken") is not False:
            wrong = "every container gets a token of Kubernetes"
            yield Problem(pod.owner, wrong, "set automountServiceAccountToken: false")
        tokens = {
            volume["name"]
            for volume in pod.spec.get("volumes", [])
            if at(volume, "projected.sources.serviceAccountToken")
        }
        for container in pod.containers:
            if container["name"] != AUTOSCALER and tokens & set(at(container, "volumeMounts.name")):
                yield Problem(_place(pod, container), "mounts a token of Kubernetes", "remove it")


def _place(pod: Pod, container: Document) -> str:
    return f"{pod.owner}, container {container['name']}"
