"""The image for CPUs is built, and does its work as a numeric user who can write volumes alone."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_image_is_built_and_passes_its_checks():
    command = [sys.executable, str(ROOT / "deploy" / "docker" / "check_image.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2400)
    if done.stdout.startswith("image-check: skipped"):
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
