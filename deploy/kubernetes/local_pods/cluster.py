"""Runs the pods of built manifests with podman, in a network of their own with their policies."""

import base64
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from checks.manifests import Document, Pod
from podman_engine import CommandError, Podman

from local_pods.firewall import firewall
from local_pods.kuberay import head_service
from local_pods.playable import Surroundings, memory_folders, playable_pod
from local_pods.probes import Run, check_health, wait_until_started

NETWORK, SUBNET = "dtkd-pods", "10.89.213"
NODE = f"{SUBNET}.1"
PLAY_TIMEOUT_S = 600
CONFIG_MODE, VOLUME_MODE = 0o555, 0o2777


@dataclass
class LocalCluster:
    """Pods by name, each with an address of its own; the names of services are in /etc/hosts.

    ``documents``: all built objects. ``folder``: where the files of ConfigMaps are written.
    ``images``: what is run instead of the images of the manifests, by their names without tag.
    ``plan``: the pods that may be played.
    """

    podman: Podman
    documents: list[Document]
    folder: Path
    images: Mapping[str, str]
    plan: Mapping[str, Pod]
    played: list[str] = field(default_factory=list)
    """Names of pods, in the order in which they were played."""

    def __post_init__(self) -> None:
        self.remove_all()
        self.podman.call("network", "create", "--disable-dns", f"--subnet={SUBNET}.0/24", NETWORK)
        self._around = Surroundings(self._images(), self.folder, self._hosts())
        self._write_config_maps()

    def address(self, name: str) -> str:
        """The address of a pod."""
        return f"{SUBNET}.{10 + list(self.plan).index(name)}"

    def play(self, name: str) -> None:
        """Create a pod and start it; init containers have ended when it returns.

        Raises:
            CommandError: podman refuses it, or an init container has failed.
        """
        pod = self.plan[name]
        document = playable_pod(name, pod.template, self._around)
        self._make_folders(document, memory_folders(name, pod.template, self.folder))
        where = [f"--network={NETWORK}", f"--ip={self.address(name)}"]
        # Its init containers may need what the policies open, and no pod may start without these.
        self.podman.call(
            "kube", "play", *where, "--start=false", "-", stdin=yaml.safe_dump(document)
        )
        self.played.append(name)
        self.podman.call("start", self._infra(name))
        self._apply_policies(name)
        self.podman.call("pod", "start", name, timeout_s=PLAY_TIMEOUT_S)

    def wait_until_ready(self, name: str) -> None:
        """Probe a pod's containers as a kubelet does, until all have started.

        Raises:
            CommandError: one does not start, or is not healthy; with its log.
        """
        containers = self.plan[name].main_containers
        try:
            for container in containers:
                self._wait_until_started(name, container)
        except CommandError as error:
            raise CommandError(f"{name}: {error}\n{self.logs(name)[-4000:]}") from error

    def check_health(self, name: str) -> None:
        """Make the probes of a pod that is ready once more.

        Raises:
            CommandError: one fails.
        """
        for container in self.plan[name].main_containers:
            check_health(container, self.address(name), self._runner(name, container))

    def wait_until_ended(self, name: str, timeout_s: float) -> int:
        """The exit status of a pod that ends by itself.

        Raises:
            CommandError: it has not ended.
        """
        (container,) = self.containers(name)
        return int(self.podman.call("wait", container, timeout_s=timeout_s))

    def run(self, name: str, *command: str, stdin: str = "", timeout_s: float = 300) -> str:
        """What a command prints in a pod's first container.

        Raises:
            CommandError: it has failed.
        """
        inside = ["exec", "-i", next(iter(self.containers(name))), *command]
        return self.podman.call(*inside, stdin=stdin, timeout_s=timeout_s)

    def containers(self, name: str) -> dict[str, Document]:
        """A pod's containers by podman's names of them."""
        return {f"{name}-{each['name']}": each for each in self.plan[name].main_containers}

    def logs(self, name: str) -> str:
        """What the containers of a pod have printed, also those that have ended."""
        return "".join(
            self.podman.call("logs", f"{name}-{each['name']}")
            for each in self.plan[name].spec.get("initContainers", [])
            + self.plan[name].main_containers
        )

    def pid(self, container: str) -> int:
        """The first process of a container."""
        return int(self.podman.call("inspect", "--format={{.State.Pid}}", container))

    def in_network(self, name: str, *command: str, stdin: str = "") -> str:
        """What a command of this machine prints in the network namespace of a pod."""
        enter = ["nsenter", f"--target={self.pid(self._infra(name))}", "--net", *command]
        done = subprocess.run(enter, input=stdin, capture_output=True, text=True)
        if done.returncode != 0:
            raise CommandError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def remove(self, name: str, grace_s: int) -> None:
        """Stop a pod, which gets ``grace_s`` seconds to end, and remove it."""
        self.podman.call("pod", "stop", f"--time={grace_s}", name, timeout_s=grace_s + 60)
        self.podman.call("pod", "rm", "--force", name)
        self.played.remove(name)

    def remove_all(self) -> None:
        """Remove all pods, volumes in memory and Secrets, and the network."""
        self.podman.call("pod", "rm", "--all", "--force", "--time=0")
        for path in filter(Path.is_mount, self.folder.glob("*")):
            subprocess.run(["umount", path], check=True)
        self.podman.call("secret", "rm", "--all")
        self.podman.call("network", "rm", "--force", NETWORK)

    def create_secret(self, secret: Document) -> None:
        """Give pods a Secret."""
        # Podman 4.3 reads an object with the values in base64.
        self.podman.call("secret", "create", secret["metadata"]["name"], "-", stdin=encoded(secret))

    def _infra(self, name: str) -> str:
        return self.podman.call("pod", "inspect", "--format={{.InfraContainerID}}", name).strip()

    def _apply_policies(self, name: str) -> None:
        peers = {self.address(other): pod for other, pod in self.plan.items() if other != name}
        rules = firewall(self.documents, self.plan[name], peers, NODE)
        self.in_network(name, "iptables-restore", stdin=rules)

    def _wait_until_started(self, name: str, container: Document) -> None:
        status = "--format={{.State.Status}} {{.State.ExitCode}}"

        def check_running() -> None:
            state = self.podman.call("inspect", status, f"{name}-{container['name']}").strip()
            if not state.startswith("running"):
                raise CommandError(f"{container['name']}: {state}")

        wait_until_started(
            container, self.address(name), self._runner(name, container), check_running
        )

    def _runner(self, name: str, container: Document) -> Run:
        inside = ["exec", f"{name}-{container['name']}"]
        return lambda command: self.podman.call(*inside, *command)

    def _images(self) -> dict[str, str]:
        """The image to run for each of the manifests, whose tag or digest is left out."""
        named = {c["image"] for pod in self.plan.values() for c in pod.containers}
        return {image: self.images[re.split("[:@]", image)[0]] for image in named}

    def _hosts(self) -> dict[str, str]:
        """The address of the first pod of each service; KubeRay makes that of the head."""
        hosts = {}
        for service in self.documents:
            if service["kind"] == "Service":
                wanted = service["spec"]["selector"].items()
                found = [name for name, pod in self.plan.items() if wanted <= pod.labels.items()]
                hosts[service["metadata"]["name"]] = self.address(found[0])
        clusters = [document for document in self.documents if document["kind"] == "RayCluster"]
        heads = [name for name, pod in self.plan.items() if pod.labels["app"] == "ray-head"]
        return {**hosts, head_service(clusters[0]): self.address(heads[0])}

    def _write_config_maps(self) -> None:
        for document in self.documents:
            if document["kind"] == "ConfigMap":
                folder = self.folder / document["metadata"]["name"]
                folder.mkdir(parents=True)
                for name, content in document["data"].items():
                    (folder / name).write_text(content)
                    (folder / name).chmod(CONFIG_MODE)

    def _make_folders(self, document: Document, num_bytes: Mapping[Path, int]) -> None:
        """What a pod's volumes are, with the group that a kubelet gives them."""
        for volume in document["spec"]["volumes"]:
            path = Path(volume["hostPath"]["path"])
            if not path.exists():
                path.mkdir(parents=True)
                if path in num_bytes:
                    size = f"size={num_bytes[path]}"
                    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", path], check=True)
                os.chown(path, 0, document["spec"]["securityContext"]["fsGroup"])
                path.chmod(VOLUME_MODE)


def encoded(secret: Document) -> str:
    """The values of a Secret as podman 4.3 reads them."""
    values = {key: base64.b64encode(value.encode()) for key, value in secret["stringData"].items()}
    return json.dumps({key: value.decode() for key, value in values.items()})
