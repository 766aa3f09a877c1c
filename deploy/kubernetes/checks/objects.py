"""Rules for objects as a whole: their namespace, secrets, budgets, and what KubeRay refuses."""

import re
from collections.abc import Iterator

from external import NAMESPACE

from checks.manifests import Document, at, cluster_specs, label, pods, strings
from checks.references import selected_pods
from service.spec.errors import Problem

CLUSTER_KINDS = {"Namespace", "PriorityClass"}
PLACEHOLDER = "set-by-settings"
SECRET_NAME = re.compile(r"PASSWORD|TOKEN|SECRET|ACCESS_KEY|CREDENTIAL|AUTH$")
# A URI with a password, or a setting of a file that has one.
SECRET_TEXT = re.compile(
    r"://[^/\s:@]*:[^/\s@]+@|^\s*(?:requirepass|[\w.-]*password)\s*[ =:]\s*[^\s$:\"';]+",
    re.I | re.M,
)
PROFILES = ("enforce", "audit", "warn")
# https://github.com/ray-project/kuberay, v1.7.0, ray-operator/controllers/ray/utils/validation.go
MAX_NAME_LENGTHS = {"RayCluster": 53, "RayJob": 47}
RAY_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")


def namespace_is_restricted(documents: list[Document]) -> Iterator[Problem]:
    """The namespace enforces Pod Security's restricted profile, and everything is in it."""
    for document in documents:
        metadata = document["metadata"]
        if document["kind"] == "Namespace":
            for profile in PROFILES:
                if (
                    metadata.get("labels", {}).get(f"pod-security.kubernetes.io/{profile}")
                    != "restricted"
                ):
                    wrong = f"does not {profile} the restricted profile"
                    yield Problem(label(document), wrong, f"add the label of {profile}")
        elif document["kind"] not in CLUSTER_KINDS and metadata.get("namespace") != NAMESPACE:
            yield Problem(label(document), f"is not in {NAMESPACE}", "set the namespace")


def settings_are_filled(documents: list[Document]) -> Iterator[Problem]:
    """No placeholder is left where components/settings puts a name of the cluster."""
    for document in documents:
        if any(PLACEHOLDER in text for text in strings(document)):
            wrong = f"has {PLACEHOLDER}"
            yield Problem(label(document), wrong, "add components/settings, or a patch")


def secrets_are_referred_to(documents: list[Document]) -> Iterator[Problem]:
    """No Secret is among the manifests, and no password in a text or an environment."""
    for document in documents:
        if document["kind"] == "Secret":
            yield Problem(label(document), "is a Secret", "create it with create_secrets.py")
        for text in strings(document):
            if SECRET_TEXT.search(text):
                yield Problem(label(document), "has a password in a text", "refer to a Secret")
    for pod in pods(documents):
        for container in pod.containers:
            for entry in container.get("env", []):
                if SECRET_NAME.search(entry["name"]) and entry.get("value"):
                    wrong = f"{entry['name']} is a value"
                    yield Problem(pod.owner, wrong, "use valueFrom with a secretKeyRef")


def budgets_can_be_met(documents: list[Document]) -> Iterator[Problem]:
    """A disruption budget selects pods, and leaves a Deployment one pod to evict."""
    for document in documents:
        if document["kind"] != "PodDisruptionBudget":
            continue
        selected = selected_pods(document["spec"]["selector"]["matchLabels"], documents)
        if not selected:
            yield Problem(label(document), "selects no pod", "correct the selector")
        for pod in selected:
            replicas = at(pod.document, "spec.replicas")
            is_deployment = pod.document["kind"] == "Deployment"
            if is_deployment and replicas[0] <= document["spec"]["minAvailable"]:
                yield Problem(label(document), "lets no pod be evicted", "add a replica")


def kuberay_accepts(documents: list[Document]) -> Iterator[Problem]:
    """What KubeRay's operator checks and its schemas do not say."""
    for document in documents:
        if document["kind"] not in MAX_NAME_LENGTHS:
            continue
        name, place = document["metadata"]["name"], label(document)
        longest = MAX_NAME_LENGTHS[document["kind"]]
        if len(name) > longest or not RAY_NAME.fullmatch(name):
            wrong = f"is no DNS-1035 label of at most {longest} characters"
            yield Problem(place, wrong, "give another name")
        for cluster in cluster_specs(document):
            yield from _cluster_problems(place, cluster)
        if document["kind"] == "RayJob":
            yield from _job_problems(place, document["spec"])


def _cluster_problems(place: str, cluster: Document) -> Iterator[Problem]:
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield Problem(place, "takes jobs without a token", "set authOptions.mode: token")
    for group in cluster["workerGroupSpecs"]:
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            wrong = f"{group['groupName']}: replicas is not between its minimum and maximum"
            yield Problem(place, wrong, "correct it")
    templates = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for template in templates if cluster.get("enableInTreeAutoscaling") else []:
        if template["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield Problem(place, "restarts pods beside the autoscaler", "remove restartPolicy")


def _job_problems(place: str, spec: Document) -> Iterator[Problem]:
    rules = at(spec, "deletionStrategy.deletionRules")
    shuts_down = spec.get("shutdownAfterJobFinishes", False)
    if rules and shuts_down:
        yield Problem(place, "has deletionRules and shutdownAfterJobFinishes", "keep one")
    if not rules and not shuts_down:
        yield Problem(place, "its cluster stays for ever", "set shutdownAfterJobFinishes")
    if spec.get("clusterSelector") and spec.get("backoffLimit"):
        yield Problem(place, "retries on a cluster that it does not own", "remove backoffLimit")
    delays: dict[str, list[tuple[int, int]]] = {}
    for rule in rules:
        condition = rule["condition"]
        status = condition.get("jobStatus") or condition.get("jobDeploymentStatus")
        step = DELETION_ORDER.index(rule["policy"])
        delays.setdefault(status, []).append((step, condition["ttlSeconds"]))
        if rule["policy"] == "DeleteWorkers" and at(
            spec, "rayClusterSpec.enableInTreeAutoscaling"
        ) == [True]:
            yield Problem(place, "deletes workers beside an autoscaler", "remove DeleteWorkers")
    for status, steps in delays.items():
        times = [seconds for _, seconds in sorted(steps)]
        if times != sorted(times):
            wrong = f"after {status}, a later deletion comes earlier"
            yield Problem(place, wrong, "order them: workers, cluster, itself")
