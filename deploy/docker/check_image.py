"""Builds the image for CPUs and checks it: check_image.py [--storage FOLDER]. ``make image-check``.

It runs as a pod does: a numeric user, no capabilities, a root that nobody can write, no network. It
needs root, podman and runc, and mmdebstrap where BASE_IMAGE does not name the image to start from.
Exit status: 0 all is as it should be, or a program is missing, and it says which; 1 otherwise.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import image_facts
from cpu_image import TAG, build_image, missing
from image_facts import SPEC
from image_script import run_script
from podman_engine import RESTRICTED, USER, CommandError, Podman

ROOT = Path(__file__).resolve().parents[2]
FACTS = Path(image_facts.__file__).read_text()
MLFLOW_START_TIMEOUT_S = 120
LAYERS = {
    "ADD ": "base", "apt-get": "Debian packages", "install_packages": "Python packages",
    "COPY ": "the service", "sbom.py": "the service",
}  # fmt: skip


def report_sizes(podman: Podman) -> None:
    """Print the bytes of the image's layers, by what they are, and the whole."""
    sizes: dict[str, int] = {}
    for command, num_bytes in podman.layers(TAG):
        name = next((name for part, name in LAYERS.items() if part in command), "base")
        sizes[name] = sizes.get(name, 0) + num_bytes
    for name, num_bytes in [*sizes.items(), ("all", sum(sizes.values()))]:
        print(f"{name:16} {num_bytes / 1e6:8,.0f} MB")


def check_labels(podman: Podman) -> None:
    """Check the image's user, and that it was built of this lock.

    Raises:
        CommandError: it was not.
    """
    config = podman.inspect(TAG)["Config"]
    lock = (ROOT / "deploy/requirements/runtime.txt").read_bytes()
    if config["Labels"]["dtkd-service.lock-sha256"] != hashlib.sha256(lock).hexdigest():
        raise CommandError(f"{TAG}: was built of another lock; build it again")
    if config["User"] != USER:
        raise CommandError(f"{TAG}: its user is {config['User']!r}, not a number")


@contextlib.contextmanager
def mlflow_server(podman: Podman, volumes: list[str]) -> Iterator[str]:
    """Runs MLflow in a container that answers, whose name it gives; removes it at the end."""
    name = f"mlflow-{os.getpid()}"
    server = ["mlflow", "server", "--host=127.0.0.1", "--port=5000", "--workers=1"]
    server += [
        "--backend-store-uri=sqlite:////runs/mlflow.db",
        "--artifacts-destination=/runs/mlflow",
    ]
    mounts = [f"--volume={volume}" for volume in volumes]
    options = ["-d", f"--name={name}", "--network=none", *RESTRICTED, *mounts]
    podman.call("run", *options, TAG, *server)
    try:
        deadline = time.monotonic() + MLFLOW_START_TIMEOUT_S
        while True:
            try:
                podman.call("exec", name, "wget", "-qO-", "http://127.0.0.1:5000/health")
                break
            except CommandError:
                if time.monotonic() > deadline:
                    raise CommandError("mlflow: " + podman.call("logs", name)[-3000:]) from None
                time.sleep(1)
        yield name
    finally:
        podman.call("rm", "--force", "--time=5", name)


def check_jobs(podman: Podman, folder: Path) -> None:
    """Convert images, check a spec, and distill, with MLflow in a container beside.

    Raises:
        CommandError: one of them has failed.
    """
    data, runs = folder / "data", folder / "runs"
    for path in (data, runs):
        path.mkdir()
        os.chown(path, 1000, 1000)
    volumes = [f"{data}:/data:ro", f"{runs}:/runs"]
    new = [f"{data}:/data", f"{runs}:/runs"]
    step("what is in it", podman.run(TAG, volumes, "python", "-", "facts", stdin=FACTS))
    podman.run(TAG, new, "python", "-", "data", stdin=FACTS)
    (runs / "spec.json").write_text(json.dumps(SPEC))
    convert = ("python", "jobs/convert.py", "/data/images", "/data/train.beton")
    step("convert.py", podman.run(TAG, new, *convert))
    distill = ("python", "jobs/distill.py", "/runs/spec.json")
    step("--validate", podman.run(TAG, volumes, *distill, "--validate"))
    with mlflow_server(podman, volumes) as server:
        step("mlflow server")
        # In one pod, containers have one network.
        mounts = [f"--volume={volume}" for volume in volumes]
        options = ["--rm", f"--network=container:{server}", *RESTRICTED, *mounts]
        log = podman.call("run", *options, TAG, *distill, timeout_s=600)
        step("distill.py", log)
    if "eager" in log or not (runs / "image-check" / "student.safetensors").exists():
        raise CommandError(f"distill.py: is not compiled, or has no student\n{log}")


def step(name: str, output: str = "") -> None:
    """Say that a check is done, with the last line that it printed."""
    print(f"ok: {name}: {(output.splitlines() or [''])[-1]}", flush=True)


def build_and_check(podman: Podman, folder: Path) -> None:
    """Build the image, print its sizes, and check it, with data in ``folder``.

    Raises:
        CommandError: a check has failed.
        subprocess.CalledProcessError: mmdebstrap has failed.
    """
    start_s = time.monotonic()
    build_image(podman)
    print(f"built in {time.monotonic() - start_s:.0f} s")
    report_sizes(podman)
    check_labels(podman)
    check_jobs(podman, folder)


if __name__ == "__main__":
    sys.exit(run_script("image-check", __doc__, missing, build_and_check))
