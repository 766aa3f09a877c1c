"""Builds images and runs them as a pod does, with podman and a storage of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER = "1000:1000"
# Without systemd.
RUNTIME = ("--runtime=runc", "--cgroup-manager=cgroupfs", "--storage-driver=overlay")
# Limits that every machine allows, and no journal.
SETTINGS = """[containers]
default_ulimits = ["nofile=10000:10000", "nproc=10000:10000"]
log_driver = "k8s-file"
[engine]
events_logger = "file"
"""
# What Kubernetes' Pod Security Standard "restricted" asks for, and a root that nobody can write.
RESTRICTED = (
    f"--user={USER}", "--cap-drop=ALL", "--security-opt=no-new-privileges",
    "--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:rw,mode=1777,exec", "--shm-size=1g",
)  # fmt: skip


class CommandError(Exception):
    """A command has failed; the text says which, and repeats the end of what it printed."""


@dataclass(frozen=True)
class Podman:
    """Podman with images and containers in ``storage``; nothing is in the machine's own."""

    storage: Path

    @property
    def command(self) -> list[str]:
        """The start of each of its commands."""
        folders = [
            f"--root={self.storage / 'images'}",
            f"--runroot={self.storage / 'containers'}",
            f"--network-config-dir={self.storage / 'networks'}",
        ]
        return ["podman", *folders, *RUNTIME]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of its commands, which write layers to the temporary folder."""
        temporary = self.storage / "temporary"
        temporary.mkdir(parents=True, exist_ok=True)
        settings = self.storage / "containers.conf"
        settings.write_text(SETTINGS)
        own = {"ENGINE": " ".join(self.command), "CONTAINERS_CONF": str(settings)}
        return {**os.environ, **own, "TMPDIR": str(temporary)}

    def call(self, *arguments: str, stdin: str = "", timeout_s: float = 300) -> str:
        """What a command of podman prints.

        Raises:
            CommandError: it ended with another status than 0, or not in time.
        """
        command = [*self.command, *arguments]
        try:
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                text=True,
                env=self.environment,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            raise CommandError(f"podman {arguments[0]}: has not ended in {timeout_s} s") from error
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-3000:]
            raise CommandError(f"podman {' '.join(arguments)}: status {done.returncode}\n{said}")
        # What a container has printed to its standard error comes there.
        return done.stdout + (done.stderr if arguments[0] == "logs" else "")

    def build(self, target: str, tag: str, options: Sequence[str]) -> None:
        """Build a target of the Dockerfile; what the builder prints goes to this process's output.

        Raises:
            CommandError: the build has failed.
        """
        script = Path(__file__).with_name("build.sh")
        # The network's and the processes' separation are what the build of an image can do without.
        sandbox = ["--isolation=chroot", "--network=host", "--layers"]
        done = subprocess.run(
            [script, target, tag, *sandbox, *options], env=self.environment, stdout=sys.stderr
        )
        if done.returncode != 0:
            raise CommandError(f"{script.name}: status {done.returncode}, see above")

    def run(self, image: str, volumes: Sequence[str], *command: str, stdin: str = "") -> str:
        """What ``command`` prints in a container without network, with a pod's restrictions.

        ``volumes``: as in ``--volume``. ``stdin``: what the command reads.

        Raises:
            CommandError: it has failed.
        """
        mounts = [f"--volume={volume}" for volume in volumes]
        container = ["run", "--rm", "-i", "--network=none", *RESTRICTED, *mounts, image]
        return self.call(*container, *command, stdin=stdin)

    def remove_all(self) -> None:
        """Remove all images and containers of the storage, so that its folder can be removed."""
        self.call("rm", "--all", "--force", "--time=5")
        self.call("rmi", "--all", "--force", timeout_s=900)
        # Podman keeps the folder of the layers mounted.
        layers = self.storage / "images" / "overlay"
        if layers.is_mount():
            subprocess.run(["umount", layers], check=True)

    def inspect(self, image: str) -> dict[str, Any]:
        """Podman's description of an image, as JSON has it."""
        description: list[dict[str, Any]] = json.loads(self.call("image", "inspect", image))
        return description[0]

    def layers(self, image: str) -> list[tuple[str, int]]:
        """The command and the bytes of each layer of an image, the base first."""
        history = json.loads(self.call("history", "--format=json", "--no-trunc", image))
        return [(str(row["CreatedBy"]), int(row["size"])) for row in reversed(history)]
