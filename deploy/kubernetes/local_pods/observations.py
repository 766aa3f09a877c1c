"""What is seen of pods from outside: restrictions of their processes, listeners, and secrets."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from checks.manifests import Pod
from checks.network import ports_between

from local_pods.cluster import LocalCluster

CHUNK_BYTES = 1 << 24
# What the kernel says of a process without capabilities, with no way to new ones, under a filter.
RESTRICTED = {"CapEff": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"}


class Listener(NamedTuple):
    """A socket of a pod that takes connections, and the pods that policies let reach it."""

    pod: str
    address: str
    port: int
    process: str
    reached_by: tuple[str, ...]


def fault_of_restrictions(cluster: LocalCluster, name: str) -> str | None:
    """What the first process of a container may do, and should not; None if nothing."""
    context = cluster.plan[name].spec["securityContext"]
    for running, container in cluster.containers(name).items():
        process = Path(f"/proc/{cluster.pid(running)}")
        status = dict(re.findall(r"(\w+):\t(\S+)", (process / "status").read_text()))
        user = {"Uid": str(context["runAsUser"]), "Gid": str(context["runAsGroup"])}
        found = {key: status[key] for key in (*RESTRICTED, *user)}
        if found != {**RESTRICTED, **user}:
            return f"{running} has {found}"
        table = (process / "mountinfo").read_text()
        mounts = dict(re.findall(r"(?m)^(?:\S+ ){4}(\S+) (r[ow])", table))
        fixed = {m["mountPath"] for m in container["volumeMounts"] if m.get("readOnly")}
        if writable := {path for path in {"/", *fixed} if mounts[path] != "ro"}:
            return f"{running} can write {writable}"
    return None


def listeners(cluster: LocalCluster, name: str) -> Iterator[Listener]:
    """Sockets of a pod that other machines could reach."""
    pod, peers = cluster.plan[name], [cluster.plan[other] for other in cluster.played]
    for line in cluster.in_network(name, "ss", "-Hltnp").splitlines():
        address, _, port = line.split()[3].rpartition(":")
        if "127.0.0.1" not in address:
            process = re.findall(r'\(\("([^"]+)"', line)
            opened = {
                peer.labels["app"]
                for peer in peers
                for first, last in ports_between(cluster.documents, "Ingress", pod, peer)
                if first <= int(port) <= last
            }
            yield Listener(name, address, int(port), process[0], tuple(sorted(opened)))


def secrets_of(pod: Pod) -> set[tuple[str, str]]:
    """Secrets that containers of a pod get in their environment, as names and keys."""
    references = [
        variable["valueFrom"]["secretKeyRef"]
        for container in pod.containers
        for variable in container.get("env", [])
        if "secretKeyRef" in variable.get("valueFrom", {})
    ]
    return {(reference["name"], reference["key"]) for reference in references}


def leaks(cluster: LocalCluster, name: str, values: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """Processes of a running pod that have a secret as an argument, or without need for it.

    ``values``: by the Secret's name and key.
    """
    own = secrets_of(cluster.plan[name])
    network = Path(f"/proc/{cluster.pid(next(iter(cluster.containers(name))))}/ns/net").readlink()
    for process in _processes(network):
        arguments, environment = process / "cmdline", process / "environ"
        for key, value in values.items():
            if value.encode() in arguments.read_bytes():
                yield f"{name}: arguments of {(process / 'comm').read_text().strip()}: {key}"
            if key not in own and value.encode() in environment.read_bytes():
                yield f"{name}: environment of {(process / 'comm').read_text().strip()}: {key}"


def leaks_in_log(
    cluster: LocalCluster, name: str, values: Mapping[tuple[str, str], str]
) -> Iterator[str]:
    """Secrets in what a pod has printed, whether it is running or has ended."""
    log = cluster.logs(name)
    yield from (f"{name}: log: {key}" for key, value in values.items() if value in log)


def leaks_in_files(folder: Path, values: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """Files of all volumes in which a secret is."""
    wanted = {value.encode(): key for key, value in values.items()}
    pattern = re.compile(b"|".join(wanted))
    longest = max(map(len, wanted))
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            for value in {
                found for part in _parts(path, longest) for found in pattern.findall(part)
            }:
                yield f"{path.relative_to(folder)}: {wanted[value]}"


def _parts(path: Path, overlap: int) -> Iterator[bytes]:
    """A file's bytes, in parts that overlap."""
    before = b""
    with path.open("rb") as file:
        while part := file.read(CHUNK_BYTES):
            yield before + part
            before = part[-overlap:]


def _processes(network: Path) -> Iterable[Path]:
    """Processes in a network namespace."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "ns" / "net").readlink() == network:
                yield process
        except OSError:
            continue
