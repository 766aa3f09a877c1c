"""Built manifests: their pods, wherever a kind of object has them, and what those contain."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]

POD_TEMPLATES = {
    "Deployment": ["spec.template"],
    "StatefulSet": ["spec.template"],
    "DaemonSet": ["spec.template"],
    "Job": ["spec.template"],
    "CronJob": ["spec.jobTemplate.spec.template"],
    "Pod": [""],
    "RayCluster": ["spec.headGroupSpec.template", "spec.workerGroupSpecs.template"],
    "RayJob": [
        "spec.submitterPodTemplate",
        "spec.rayClusterSpec.headGroupSpec.template",
        "spec.rayClusterSpec.workerGroupSpecs.template",
    ],
}
# They run until something else ends them.
SERVING_KINDS = {"Deployment", "StatefulSet", "DaemonSet", "RayCluster", "RayJob"}


@dataclass(frozen=True)
class Pod:
    """The template of a pod, and the object that it belongs to."""

    document: Document
    path: str
    template: Document
    injected: tuple[Document, ...] = ()
    """Containers that an operator adds."""

    @property
    def owner(self) -> str:
        """Such as "RayCluster dtkd, spec.headGroupSpec.template"."""
        kind = self.document["kind"]
        several = len(POD_TEMPLATES[kind]) > 1
        return label(self.document) + (f", {self.path}" if several else "")

    @property
    def is_serving(self) -> bool:
        """Whether it runs until something else ends it."""
        return self.document["kind"] in SERVING_KINDS and not self.path.endswith(
            "submitterPodTemplate"
        )

    @property
    def labels(self) -> dict[str, str]:
        """Labels, which policies and services select."""
        labels: dict[str, str] = self.template.get("metadata", {}).get("labels", {})
        return labels

    @property
    def spec(self) -> Document:
        """The pod's own spec."""
        spec: Document = self.template["spec"]
        return spec

    @property
    def main_containers(self) -> list[Document]:
        """Containers that are there while the pod runs, without those that an operator adds."""
        containers: list[Document] = self.spec["containers"]
        return containers

    @property
    def containers(self) -> list[Document]:
        """All containers."""
        return [*self.spec.get("initContainers", []), *self.main_containers, *self.injected]


def label(document: Document) -> str:
    """Kind and name."""
    return f"{document['kind']} {document['metadata']['name']}"


def at(document: object, path: str) -> list[Any]:
    """What a manifest has at a dotted path, once for each element of the lists on the way."""
    found = [document]
    for key in path.split(".") if path else []:
        found = [value[key] for value in found if isinstance(value, dict) and key in value]
        found = [v for value in found for v in (value if isinstance(value, list) else [value])]
    return found


def pods(documents: Iterable[Document]) -> Iterator[Pod]:
    """Every pod of the objects, such as a cluster's head and each of its groups of workers."""
    for document in documents:
        for path in POD_TEMPLATES.get(document["kind"], []):
            for template in at(document, path):
                is_head = path.endswith("headGroupSpec.template")
                added = tuple(autoscalers(document)) if is_head else ()
                yield Pod(document, path, template, added)


def autoscalers(document: Document) -> Iterator[Document]:
    """The container that KubeRay adds to the head of a cluster with an autoscaler."""
    for cluster in cluster_specs(document):
        if cluster.get("enableInTreeAutoscaling"):
            options = cluster.get("autoscalerOptions", {})
            image = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
            yield {"name": "autoscaler", "image": image, **options}


def cluster_specs(document: Document) -> list[Document]:
    """The specs of Ray clusters in an object."""
    paths = {"RayCluster": "spec", "RayJob": "spec.rayClusterSpec"}
    return at(document, paths[document["kind"]]) if document["kind"] in paths else []


def strings(value: object) -> Iterator[str]:
    """Every text in an object, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from strings(entry)
