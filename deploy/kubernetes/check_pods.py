"""Run the pods of an overlay on this machine: check_pods.py [--storage FOLDER].

MLflow with its databases and its store, and the built RayCluster as KubeRay completes it, run under
`podman kube play` with their security contexts, volumes and Secrets; their probes are made, and
their network policies are rules of each pod's own firewall. The pod of a rendered RayJob submits a
job. It needs root, podman and runc. Exit status: 0 all is as it should be, or a program is missing,
and it says which; 1 otherwise.
"""

import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "docker"))

from check import built
from cpu_image import TAG, build_image, missing
from create_secrets import secret
from external import SECRETS
from image_script import run_script
from local_pods.cluster import LocalCluster
from local_pods.stand_ins import build_stand_ins
from local_pods.story import plan, run_all
from podman_engine import Podman

OVERLAY = "one-machine"
PROGRAMS = ("iptables-restore", "nsenter", "ss")
# Debian 12's. Others read Secrets in another form.
PODMAN_VERSION = "4.3"
UNTRIED = (
    "admission, quotas, scheduling, KubeRay's operator and its autoscaler, network policies by a "
    "network plugin, names, Kueue, ingress, storage classes; the images of Postgres, Redis and "
    "SeaweedFS, for which others stand in"
)


def check(podman: Podman, folder: Path) -> None:
    """Build the images and run the pods, with their volumes below ``folder``.

    Raises:
        CommandError: something is not as it should be.
        subprocess.CalledProcessError: a program of this machine has failed.
    """
    base = build_image(podman)
    images = {"dtkd-service": TAG, **build_stand_ins(podman, base, TAG)}
    documents = built(OVERLAY)
    cluster = LocalCluster(podman, documents, folder / "volumes", images, plan(documents))
    values: dict[tuple[str, str], str] = {}
    try:
        for name in SECRETS:
            made = secret(name)
            cluster.create_secret(made)
            values |= {(name, key): value for key, value in made["stringData"].items()}
        # What is no secret.
        del values["dtkd-mlflow", "runs-username"]
        run_all(cluster, values)
    finally:
        cluster.remove_all()
    print(f"untried: {UNTRIED}")


def lacking(storage: Path) -> list[str]:
    """What this machine lacks to run pods, with their images in a folder."""
    if needed := missing(storage, PROGRAMS):
        return needed
    said = subprocess.run(["podman", "--version"], capture_output=True, text=True).stdout
    version = said.split()[-1]
    is_known = version.startswith(f"{PODMAN_VERSION}.")
    return [] if is_known else [f"podman {PODMAN_VERSION} in place of {version}"]


if __name__ == "__main__":
    sys.exit(run_script("deploy-check-run", __doc__, lacking, check))
