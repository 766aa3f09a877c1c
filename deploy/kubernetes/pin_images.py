"""Write the digests of all images into components/images: python deploy/kubernetes/pin_images.py.

make pin-images REGISTRY=registry.example.com/team TAG=1.0 looks up TAG-cpu and TAG-cuda of the
service there, and everything else where it is published, with skopeo, or with crane. What is pinned
runs until this is called again, whatever its tag means by then: the tags are kept beside the
digests, and are looked up again. An image that has a digest and no tag is left as it is.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

import yaml
from image_lock import LOCK_ANNOTATION, LOCK_LABEL, OTHER_LOCK, lock_digest
from kubectl import FOLDER, run_command

from data_pipeline.files import write_atomically
from service.run.scripts import ScriptParser
from service.spec.errors import BadInputError, Problem

IMAGES = FOLDER / "components" / "images" / "kustomization.yaml"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
TIMEOUT_S = 120
HEAD = """\
# Which images all pods run, written by make pin-images. The digest is what runs, whatever the tag.
"""


class Pinned(NamedTuple):
    """An image in a registry as it is now."""

    digest: str
    labels: dict[str, str]


def pin_images(arguments: list[str]) -> None:
    """Look up all images, and only then write the file.

    Raises:
        BadInputError: an image cannot be looked up, or was built with another lock.
    """
    options = _parser().parse_args(arguments)
    component = yaml.safe_load(IMAGES.read_text())
    entries = [pinned_entry(image, options.registry, options.tag) for image in component["images"]]
    try:
        write_atomically(IMAGES, HEAD + component_text(entries, lock_digest()))
    except OSError as error:
        problem = Problem(str(IMAGES), f"cannot be written: {error}", "make it writable")
        raise BadInputError("images", [problem]) from error


def pinned_entry(image: dict[str, str], registry: str, service_tag: str) -> dict[str, str]:
    """The component's entry of an image, with the digest that its tag has now.

    ``registry``, ``service_tag``: those of the service's own images.

    Raises:
        BadInputError: it cannot be looked up, or is the service's, built with another lock.
    """
    name, tag = image.get("newName", image["name"]), image.get("newTag")
    is_own = image["name"].startswith("dtkd-service")
    if is_own:
        variant = "cuda" if image["name"].endswith("cuda") else "cpu"
        name, tag = f"{registry}/dtkd-service", f"{service_tag}-{variant}"
    if tag is None:
        return image
    pinned = look_up(f"{name}:{tag}")
    if is_own and (lock := pinned.labels.get(LOCK_LABEL)) != lock_digest():
        wrong = OTHER_LOCK if lock else f"has no label {LOCK_LABEL}"
        raise _refused(f"{name}:{tag}", wrong, "build it with deploy/docker/build.sh and push it")
    return {"name": image["name"], "newName": name, "newTag": tag, "digest": pinned.digest}


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
        found = _object([skopeo, "inspect", f"docker://{image}"], image)
        digest, labels = found.get("Digest"), found.get("Labels")
    elif crane := shutil.which("crane"):
        digest = _output([crane, "digest", image], image).strip()
        config = _object([crane, "config", image], image).get("config")
        labels = config.get("Labels") if isinstance(config, dict) else None
    else:
        raise _refused("pin-images", "needs skopeo or crane", "run apt-get install skopeo")
    if not (isinstance(digest, str) and DIGEST.fullmatch(digest)):
        raise _refused(image, f"has no SHA-256 digest, but {digest!r}", "push it again")
    return Pinned(digest, labels if isinstance(labels, dict) else {})


def _object(command: list[str], image: str) -> dict[str, object]:
    """The JSON object that a program prints."""
    text = _output(command, image)
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        wrong = f"cannot be looked up: {command[0]} printed no JSON object"
        raise _refused(image, wrong, "update skopeo or crane")
    return found


def _output(command: list[str], image: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        wrong = f"the registry did not answer in {TIMEOUT_S} s"
        raise _refused(image, wrong, "run this again, or correct the name") from error
    except (OSError, UnicodeDecodeError) as error:
        wrong = f"cannot be looked up: {command[0]}: {error}"
        raise _refused(image, wrong, "install skopeo or crane again") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["cannot be looked up"]
        raise _refused(image, lines[-1], "push it, or correct the name")
    return done.stdout


def _refused(where: str, wrong: str, remedy: str) -> BadInputError:
    return BadInputError("images", [Problem(where, wrong, remedy)])


def _parser() -> argparse.ArgumentParser:
    parser = ScriptParser(__doc__)
    parser.add_argument("--registry", required=True, help="such as registry.example.com/team")
    parser.add_argument("--tag", required=True, help="of the service, before -cpu and -cuda")
    return parser


if __name__ == "__main__":
    run_command(lambda: pin_images(sys.argv[1:]))
