"""Write the digests of all images into components/images: python deploy/kubernetes/pin_images.py.

make pin-images REGISTRY=registry.example.com/team TAG=1.0 looks up TAG-cpu and TAG-cuda of the
service there, and everything else where it is published, with skopeo, or with crane. What is pinned
runs until this is called again, whatever its tag means by then.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

import yaml
from kubectl import FOLDER, run_command
from submit import LOCK_ANNOTATION

from service.run.scripts import ScriptParser
from service.spec.errors import BadInputError, Problem

IMAGES = FOLDER / "components" / "images" / "kustomization.yaml"
LOCK_LABEL = "dtkd-service.lock-sha256"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
TIMEOUT_S = 120
HEAD = """\
# Which images all pods run, written by make pin-images. The tags were: {tags}.
"""


class Pinned(NamedTuple):
    """An image in a registry as it is now."""

    digest: str
    labels: dict[str, str]


def pin_images(arguments: list[str]) -> None:
    """Look up all images, and only then write the file.

    Raises:
        BadInputError: an image cannot be looked up, or has no digest of its lock.
    """
    options = _parser().parse_args(arguments)
    component = yaml.safe_load(IMAGES.read_text())
    entries, tags, locks = [], [], set()
    for image in component["images"]:
        name, tag = image.get("newName", image["name"]), image.get("newTag")
        is_own = image["name"].startswith("dtkd-service")
        if is_own:
            variant = "cuda" if image["name"].endswith("cuda") else "cpu"
            name, tag = f"{options.registry}/dtkd-service", f"{options.tag}-{variant}"
        if tag is None:
            entries.append(image)
            continue
        pinned = look_up(f"{name}:{tag}")
        if is_own:
            locks.add(pinned.labels.get(LOCK_LABEL, ""))
        entries.append({"name": image["name"], "newName": name, "digest": pinned.digest})
        tags.append(f"{name}:{tag}")
    if len(locks) != 1 or not all(locks):
        wrong = f"have no label {LOCK_LABEL} in common"
        remedy = "build both with deploy/docker/Dockerfile from one revision"
        raise BadInputError("images", [Problem(f"images {options.tag}", wrong, remedy)])
    IMAGES.write_text(HEAD.format(tags=", ".join(tags)) + component_text(entries, locks.pop()))


def component_text(images: list[dict[str, str]], lock: str) -> str:
    """The component, which also tells submit.py which lock the service's images have."""
    annotation = [{"op": "add", "path": "/metadata/annotations", "value": {LOCK_ANNOTATION: lock}}]
    component = {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "images": images,
        "patches": [
            {
                "target": {"kind": "RayCluster"},
                "patch": yaml.safe_dump(annotation),
            }
        ],
    }
    return yaml.safe_dump(component, sort_keys=False)


def look_up(image: str) -> Pinned:
    """Digest and labels of an image.

    Raises:
        BadInputError: neither skopeo nor crane is installed, or there is no such image.
    """
    if skopeo := shutil.which("skopeo"):
        found = json.loads(_output([skopeo, "inspect", f"docker://{image}"], image))
        digest, labels = found["Digest"], found["Labels"] or {}
    elif crane := shutil.which("crane"):
        digest = _output([crane, "digest", image], image).strip()
        config = json.loads(_output([crane, "config", image], image))
        labels = config["config"].get("Labels") or {}
    else:
        problem = Problem("pin-images", "needs skopeo or crane", "run apt-get install skopeo")
        raise BadInputError("pin-images", [problem])
    assert DIGEST.fullmatch(digest), digest
    return Pinned(digest, labels)


def _output(command: list[str], image: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["cannot be looked up"]
        raise BadInputError("images", [Problem(image, lines[-1], "push it, or correct the name")])
    return done.stdout


def _parser() -> argparse.ArgumentParser:
    parser = ScriptParser(__doc__)
    parser.add_argument("--registry", required=True, help="such as registry.example.com/team")
    parser.add_argument("--tag", required=True, help="of the service, before -cpu and -cuda")
    return parser


if __name__ == "__main__":
    run_command(lambda: pin_images(sys.argv[1:]))
