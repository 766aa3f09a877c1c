"""The image for CPUs is built and does its work; the pods of an overlay run with it."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from podman_engine import Podman

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def storage():
    """A folder for images, which the second check finds built."""
    with tempfile.TemporaryDirectory(prefix="dtkd-images-") as folder:
        yield folder
        if Path(folder, "images").exists():
            Podman(Path(folder)).remove_all()


@pytest.mark.parametrize("script", ["docker/check_image.py", "kubernetes/check_pods.py"])
def test_check_passes(script, storage):
    command = [sys.executable, str(DEPLOY / script), "--storage", storage]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2400)
    if ": skipped, " in done.stdout:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
