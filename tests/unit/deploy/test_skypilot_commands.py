"""Commands of deploy/skypilot.yaml are shell, also those within the container."""

import subprocess
from pathlib import Path

import yaml

PATH = Path(__file__).parents[3] / "deploy" / "skypilot.yaml"


def test_setup_and_run_are_shell():
    task = yaml.safe_load(PATH.read_text())
    for name in ("setup", "run"):
        subprocess.run(["bash", "-n", "-c", task[name]], check=True)
