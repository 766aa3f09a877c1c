"""Rules: every name that a manifest refers to exists, with the key or the port that is meant."""

import re
from collections.abc import Iterator, Mapping

from external import CLUSTER_CONFIG_MAPS, SECRETS, TLS_SECRET

from checks.manifests import Document, Pod, at, label, pods, strings
from service.spec.errors import Problem

URL = re.compile(r"\bhttps?://([a-z0-9-]+)(?::(\d+))?(?![\w.:-]*\.)")
DATABASE_HOST = "PGHOST"
VOLUME_SOURCES = {
    "configMap": ("ConfigMap", "name"),
    "secret": ("Secret", "secretName"),
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
}
KEY_REFERENCES = {"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}


def known_objects(documents: list[Document]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Keys of the objects by kind and name, with those that are made apart from the manifests."""
    external: dict[str, Mapping[str, tuple[str, ...]]] = {
        "Secret": {**SECRETS, TLS_SECRET: ("tls.crt", "tls.key")},
        "ConfigMap": CLUSTER_CONFIG_MAPS,
        "ServiceAccount": {"default": ()},
    }
    known = {(kind, name): keys for kind, names in external.items() for name, keys in names.items()}
    for document in documents:
        known[document["kind"], document["metadata"]["name"]] = tuple(document.get("data", {}))
    return known


def names_exist(documents: list[Document]) -> Iterator[Problem]:
    """ConfigMaps, Secrets and the keys that are read, claims, accounts and priority classes."""
    known = known_objects(documents)
    for owner, kind, name, key in _references(documents):
        if (kind, name) not in known:
            yield Problem(owner, f"there is no {kind} {name}", "create it, or correct the name")
        elif key and key not in known[kind, name]:
            yield Problem(owner, f"{kind} {name} has no {key}", "add the key, or correct it")


def _references(documents: list[Document]) -> Iterator[tuple[str, str, str, str]]:
    """(owner, kind, name, key or "") of everything that is referred to."""
    for pod in pods(documents):
        yield from ((pod.owner, *reference) for reference in references_of(pod))
    for document in documents:
        for name in at(document, "spec.authOptions.secretName"):
            yield label(document), "Secret", name, "auth_token"
        for name in at(document, "spec.rayClusterSpec.authOptions.secretName"):
            yield label(document), "Secret", name, "auth_token"
        for password in at(document, "spec.gcsFaultToleranceOptions.redisPassword"):
            yield from ((label(document), *reference) for reference in _of_environment(password))
        for name in at(document, "spec.tls.secretName"):
            yield label(document), "Secret", name, "tls.key"


def references_of(pod: Pod) -> Iterator[tuple[str, str, str]]:
    """(kind, name, key or "") of everything that a pod refers to."""
    for volume in pod.spec.get("volumes", []):
        for source in [volume, *at(volume, "projected.sources")]:
            for key, (kind, name_key) in VOLUME_SOURCES.items():
                if key in source:
                    name = source[key][name_key]
                    items = at(source[key], "items.key") or [""]
                    yield from ((kind, name, item) for item in items)
    if "serviceAccountName" in pod.spec:
        yield "ServiceAccount", pod.spec["serviceAccountName"], ""
    yield "PriorityClass", pod.spec.get("priorityClassName", "(none)"), ""
    for name in at(pod.spec, "imagePullSecrets.name"):
        yield "Secret", name, ""
    for container in pod.containers:
        for entry in container.get("env", []):
            yield from _of_environment(entry)
        for source, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            yield from ((kind, name, "") for name in at(container, f"envFrom.{source}.name"))


def _of_environment(entry: Document) -> Iterator[tuple[str, str, str]]:
    for source, kind in KEY_REFERENCES.items():
        for reference in at(entry, f"valueFrom.{source}"):
            yield kind, reference["name"], reference["key"]


def volumes_match(documents: list[Document]) -> Iterator[Problem]:
    """Every mount has its volume, every file its key, and every volume a mount."""
    known = known_objects(documents)
    for pod in pods(documents):
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        mounts = [
            mount for container in pod.containers for mount in container.get("volumeMounts", [])
        ]
        mounted = {mount["name"] for mount in mounts}
        for name in sorted(mounted - volumes.keys()):
            yield Problem(pod.owner, f"there is no volume {name}", "add it, or correct the mount")
        for name in sorted(volumes.keys() - mounted):
            yield Problem(pod.owner, f"no container mounts volume {name}", "remove it, or mount it")
        for mount in mounts:
            for name in at(volumes.get(mount["name"]), "configMap.name"):
                keys = known.get(("ConfigMap", name), ())
                if mount.get("subPath", "") and mount["subPath"] not in keys:
                    wrong = f"ConfigMap {name} has no {mount['subPath']}"
                    yield Problem(pod.owner, wrong, "correct subPath")


def services_answer(documents: list[Document]) -> Iterator[Problem]:
    """Addresses name a service and its port, and behind every port of a service a pod listens."""
    services = {d["metadata"]["name"]: d for d in documents if d["kind"] == "Service"}
    for document in documents:
        for host, port in _addresses(document):
            ports = at(services.get(host, {}), "spec.ports.port")
            if port not in ports:
                wrong = f"no service {host} has port {port}"
                yield Problem(label(document), wrong, "add it, or correct the address")
        for backend in at(document, "spec.rules.http.paths.backend.service"):
            names = at(services.get(backend["name"], {}), "spec.ports.name")
            if backend["port"].get("name") not in names:
                wrong = f"service {backend['name']} has no port {backend['port']}"
                yield Problem(label(document), wrong, "use the name of a port of the service")
    for service in services.values():
        selected = selected_pods(service["spec"]["selector"], documents)
        listening = {
            port for pod in selected for port in at(pod.spec, "containers.ports.containerPort")
        }
        for port in at(service, "spec.ports"):
            if port.get("targetPort", port["port"]) not in listening:
                wrong = f"no pod that it selects listens on port {port['port']}"
                yield Problem(label(service), wrong, "correct the selector or the port")


def _addresses(document: Document) -> Iterator[tuple[str, int]]:
    for text in strings({key: value for key, value in document.items() if key != "metadata"}):
        # A comment of a script names no service.
        code = "\n".join(
            line for line in text.splitlines() if not line.lstrip().startswith(("#", ";"))
        )
        for host, port in URL.findall(code):
            if host not in ("localhost", "127"):
                yield host, int(port or 80)
    for address in at(document, "spec.gcsFaultToleranceOptions.redisAddress"):
        host, _, port = address.partition(":")
        yield host, int(port)
    for pod in pods([document]):
        for entry in at(pod.spec, "containers.env"):
            if entry["name"] == DATABASE_HOST:
                yield entry["value"], 5432


def selected_pods(selector: Mapping[str, str], documents: list[Document]) -> list[Pod]:
    """Pods that have these labels."""
    return [pod for pod in pods(documents) if selector.items() <= pod.labels.items()]
