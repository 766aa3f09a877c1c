"""Kubernetes manifests: the names that they refer to, and those that do not exist."""

import re

POD_PATHS = {
    "Deployment": ["spec.template"],
    "RayJob": [
        "spec.rayClusterSpec.headGroupSpec.template",
        "spec.rayClusterSpec.workerGroupSpecs.template",
        "spec.submitterPodTemplate",
    ],
}
VOLUME_SOURCES = {
    "configMap": ("ConfigMap", "name"),
    "secret": ("Secret", "secretName"),
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
}
ENV_SOURCES = {
    "configMapRef": "ConfigMap",
    "configMapKeyRef": "ConfigMap",
    "secretRef": "Secret",
    "secretKeyRef": "Secret",
}
URL = re.compile(r"\bhttps?://([a-z0-9-]+)(?::(\d+))?")


def at(document, path):
    """What a manifest has at a dotted path, once for each element of the lists on the way."""
    found = [document]
    for key in path.split("."):
        found = [value[key] for value in found if isinstance(value, dict) and key in value]
        found = [v for value in found for v in (value if isinstance(value, list) else [value])]
    return found


def templates(document):
    """(path, template) of the pods of a manifest."""
    for path in POD_PATHS.get(document["kind"], []):
        for template in at(document, path):
            yield path, template


def containers(pod):
    return [*pod.get("initContainers", []), *pod["containers"]]


def referred(pod):
    """(kind, name, path within the pod's template) of the objects that a pod refers to."""
    for volume in pod.get("volumes", []):
        for source, (kind, key) in VOLUME_SOURCES.items():
            if source in volume:
                yield kind, volume[source][key], f"spec.volumes.{source}.{key}"
    for name in at(pod, "imagePullSecrets.name"):
        yield "Secret", name, "spec.imagePullSecrets.name"
    if "serviceAccountName" in pod:
        yield "ServiceAccount", pod["serviceAccountName"], "spec.serviceAccountName"
    for container in containers(pod):
        for source, kind in ENV_SOURCES.items():
            for path in (f"envFrom.{source}.name", f"env.valueFrom.{source}.name"):
                for name in at(container, path):
                    yield kind, name, f"spec.containers.{path}"


def problems(documents):
    """What would keep the pods from starting, or from finding each other."""
    existing = {(d["kind"], d["metadata"]["name"]) for d in documents}
    texts = [text for d in documents if d["kind"] == "ConfigMap" for text in d["data"].values()]
    for document in documents:
        owner = f"{document['kind']} {document['metadata']['name']}"
        for _, template in templates(document):
            pod = template["spec"]
            for kind, name, _ in referred(pod):
                if (kind, name) not in existing:
                    yield f"{owner}: no {kind} {name}"
            volumes = at(pod, "volumes.name")
            for container in containers(pod):
                texts += [entry.get("value", "") for entry in container.get("env", [])]
                for mounted in at(container, "volumeMounts.name"):
                    if mounted not in volumes:
                        yield f"{owner}: no volume {mounted}"
    services = {d["metadata"]["name"]: d for d in documents if d["kind"] == "Service"}
    for host, port in [match for text in texts for match in URL.findall(text)]:
        if int(port or 80) not in at(services.get(host, {}), "spec.ports.port"):
            yield f"no service {host} with port {port or 80}"
    for service in services.values():
        yield from _service_problems(service, documents)


def _service_problems(service, documents):
    name, selector = service["metadata"]["name"], service["spec"]["selector"].items()
    chosen = [
        template
        for document in documents
        for _, template in templates(document)
        if selector <= template.get("metadata", {}).get("labels", {}).items()
    ]
    listening = {port for t in chosen for port in at(t, "spec.containers.ports.containerPort")}
    for port in service["spec"]["ports"]:
        if port.get("targetPort", port["port"]) not in listening:
            yield f"no pod behind port {port['port']} of service {name}"
