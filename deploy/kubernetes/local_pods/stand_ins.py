"""Images that stand in for those of Postgres, Redis and SeaweedFS."""

import importlib.metadata
import shutil
import tempfile
from pathlib import Path

from podman_engine import Podman

FOLDER = Path(__file__).with_name("stand_in_images")
TAG = "localhost/stand-in"
# Moto's server for S3: what it needs, and the image does not have.
PACKAGES = ("moto", "xmltodict", "responses", "py_partiql_parser")
TARGETS = {"postgres": "databases", "redis": "databases", "chrislusf/seaweedfs": "object-store"}


def build_stand_ins(podman: Podman, base: str, service: str) -> dict[str, str]:
    """Build them; the tags by the names of the images that they stand for."""
    with tempfile.TemporaryDirectory() as packages:
        copy_packages(Path(packages))
        for target in sorted(set(TARGETS.values())):
            podman.call(
                "build", "--isolation=chroot", "--network=host", "--layers", f"--target={target}",
                f"--build-arg=BASE_IMAGE={base}", f"--build-arg=SERVICE_IMAGE={service}",
                f"--build-context=packages={packages}", f"--tag={TAG}:{target}", str(FOLDER),
                timeout_s=900,
            )  # fmt: skip
    return {name: f"{TAG}:{target}" for name, target in TARGETS.items()}


def copy_packages(folder: Path) -> None:
    """Copy the files of the packages that this Python has, all of which are Python's."""
    for name in PACKAGES:
        for file in importlib.metadata.files(name) or ():
            if file.parts[0] != ".." and file.suffix != ".pyc":
                path = folder / file
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), path)
