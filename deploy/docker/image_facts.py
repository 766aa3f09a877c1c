"""What is checked in a container of the image: image_facts.py facts|data, given on standard input.

facts: the user, what it can write, and what is installed. data: writes images and a teacher to
/data, which SPEC is about.
"""

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path("/opt/dtkd-service")
FILES = {"LICENSE", "REVISION", "sbom.cdx.json"}
VOLUMES = {"/tmp", "/runs", "/dev/shm", "/dev/mqueue"}
FORBIDDEN_PACKAGES = ("pytest", "hypothesis", "mypy", "ruff", "moto", "pip")
NUM_CLASSES, NUM_IMAGES, SIZE = 4, 16, 16
SPEC: dict[str, Any] = {
    "name": "image-check",
    "dataset": {
        "train": "/data/train.beton", "val": "/data/train.beton", "num_classes": NUM_CLASSES,
    },
    "augmentation": {"crop": "pad_and_crop", "size": SIZE, "padding": 1},
    "teacher": {"model": "cifar:resnet8", "weights": {"source": "/data/teacher.safetensors"}},
    "student": {"model": "cifar:tiny_cnn"},
    "schedule": {"num_epochs": 2, "milestones": [1]},
    # Without a compiler, and Python's headers, it would be eager with a warning.
    "training": {"global_batch_size": 16, "micro_batch_size": 16, "compile": "on"},
    "resources": {"num_workers": 1, "cpus_per_worker": 1, "max_failures": 0},
    "checkpoints": {"storage_path": "/runs"},
    "evaluation": {"resize_size": SIZE, "crop_size": SIZE, "batch_size": 32},
    "tracking": {"uri": "http://127.0.0.1:5000"},
}  # fmt: skip


def writable_folders() -> set[str]:
    """The highest folders that this user can write, but for the kernel's."""
    found = set()
    for folder, names, _ in os.walk("/"):
        if folder in ("/proc", "/sys") or os.access(folder, os.W_OK):
            names.clear()
            if folder not in ("/proc", "/sys"):
                found.add(folder)
    return found


def lock_differences() -> list[str]:
    """Packages whose version is not the lock's; some are left out of the CPU's image."""
    lock = dict(re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", (ROOT / "deploy/runtime.txt").read_text()))
    lock = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in lock.items()}
    installed = {
        re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(): found.version.split("+")[0]
        for found in importlib.metadata.distributions()
    }
    installed.pop("dtkd-service")
    return sorted(f"{k} {v}" for k, v in installed.items() if lock.get(k) != v)


def check_facts() -> None:
    """Check the process, the files and the packages.

    Raises:
        AssertionError: one of them is not as it should be.
    """
    status = dict(re.findall(r"(\w+):\s+(\S+)", Path("/proc/self/status").read_text()))
    assert (os.getuid(), os.getgid()) == (1000, 1000), os.getuid()
    assert int(status["CapEff"], 16) == 0, status["CapEff"]
    assert status["NoNewPrivs"] == "1"
    assert writable_folders() <= VOLUMES, writable_folders() - VOLUMES
    folders = {path.name for path in ROOT.iterdir() if path.suffix != ".dist-info"}
    assert folders - FILES == {".venv", "data_pipeline", "deploy", "jobs", "service"}, folders
    login_shell = subprocess.run(["bash", "-lc", "command -v ray"], capture_output=True, text=True)
    assert login_shell.stdout.strip() == str(ROOT / ".venv/bin/ray"), login_shell
    found = [name for name in FORBIDDEN_PACKAGES if importlib.util.find_spec(name)]
    assert found == [], found
    assert lock_differences() == [], lock_differences()
    bill = json.loads((ROOT / "sbom.cdx.json").read_text())
    names = {component["name"] for component in bill["components"]}
    assert {"torch", "ray", "libjpeg62-turbo", "python3.11"} <= names


def write_data() -> None:
    """Write images of noise with a stripe for each class, and a random teacher."""
    import numpy as np
    from PIL import Image
    from safetensors.torch import save_file

    from service.models.build import build_model

    generator = np.random.default_rng(0)
    for label in range(NUM_CLASSES):
        folder = Path(f"/data/images/class{label}")
        folder.mkdir(parents=True)
        for index in range(NUM_IMAGES):
            pixels = generator.integers(0, 130, (SIZE, SIZE, 3)).astype(np.uint8)
            pixels[4 * label : 4 * label + 4] += 60
            Image.fromarray(pixels).save(folder / f"{index}.png")
    save_file(build_model("cifar:resnet8", NUM_CLASSES).state_dict(), "/data/teacher.safetensors")


if __name__ == "__main__":
    {"facts": check_facts, "data": write_data}[sys.argv[1]]()
