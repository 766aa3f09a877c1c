"""Pods as ``podman kube play`` takes them, with what a kubelet would have done for their volumes.

Podman 4.3 runs no probes without systemd, and knows no fsGroup, no emptyDir in memory and no file
of a ConfigMap by its subPath. What is for a scheduler, such as priorities, it ignores.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from checks.manifests import Document
from rayjob import amount

# The check makes probes itself, and podman would open the ports to this machine's network.
LEFT_OUT = ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "ports")

# Init containers that have ended stay, with their logs.
KEEP_INIT = {"io.podman.annotations.init.container.type": "always"}


class Surroundings(NamedTuple):
    """What pods find where they run."""

    images: Mapping[str, str]
    """The images to run instead of those of the manifests."""
    folder: Path
    """With a folder for each ConfigMap, claim and emptyDir, by its name."""
    hosts: Mapping[str, str]
    """Addresses of the services' names."""


def playable_pod(name: str, template: Document, around: Surroundings) -> Document:
    """A Pod of a template, all of whose volumes are paths of this machine."""
    spec = copy.deepcopy(template["spec"])
    sources = {volume["name"]: volume for volume in spec["volumes"]}
    volumes: dict[str, Document] = {}
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    for container in containers:
        container["image"] = around.images[container["image"]]
        for key in LEFT_OUT:
            container.pop(key, None)
        for mount in container["volumeMounts"]:
            volume = _playable_volume(name, sources[mount["name"]], mount, around.folder)
            mount["name"] = volume["name"]
            volumes[volume["name"]] = volume
    spec["volumes"] = list(volumes.values())
    # A container that ends is a failure of the check; podman would also repeat init containers.
    spec["restartPolicy"] = "Never"
    spec["hostAliases"] = [{"ip": ip, "hostnames": [host]} for host, ip in around.hosts.items()]
    metadata = {"name": name, "labels": template["metadata"]["labels"], "annotations": KEEP_INIT}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def memory_folders(name: str, template: Document, folder: Path) -> dict[Path, int]:
    """The folders that stand for the volumes in memory of a pod, and their bytes."""
    return {
        _own_folder(name, volume, folder): int(amount(volume["emptyDir"]["sizeLimit"]))
        for volume in template["spec"]["volumes"]
        if volume.get("emptyDir", {}).get("medium") == "Memory"
    }


def _playable_volume(pod: str, volume: Document, mount: Document, folder: Path) -> Document:
    """The volume that is mounted instead; a mount of a file takes one of its own."""
    name = volume["name"]
    if "configMap" in volume:
        path = folder / volume["configMap"]["name"]
        file = mount.pop("subPath", "")
        name += f"-{Path(file).stem}" if file else ""
        return {"name": name, "hostPath": {"path": str(path / file)}}
    if "persistentVolumeClaim" in volume:
        path = folder / volume["persistentVolumeClaim"]["claimName"]
    else:
        path = _own_folder(pod, volume, folder)
    return {"name": name, "hostPath": {"path": str(path)}}


def _own_folder(pod: str, volume: Document, folder: Path) -> Path:
    return folder / f"{pod}-{volume['name']}"
