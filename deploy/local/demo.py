"""Distillation on real data: a teacher on all of Fashion-MNIST, students on 1,000 of its images.

The teacher and one student are trained by Ray jobs of their own, then a comparison trains students
without a teacher, with KD and with DTKD, over three seeds. All are submitted with ``ray job
submit``; accuracies are read from MLflow.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from stack import FOLDER, ROOT, Stack, up

from service.run.folder import PAGE_NAME
from service.run.journal import JOURNAL_NAME, read_events
from service.run_page.temperatures import temperature_figure
from service.tracking.mlflow_run import UI_MODE

SOURCE = Path(os.environ.get("FASHION_MNIST") or "/usr/share/datasets/fashion-mnist")
NUM_IMAGES_PER_CLASS = 100
# What Ray's dashboard says while the process that starts jobs is not there yet, on a busy machine.
NOT_READY = "No available agent to submit job"
START_S = 120.0
SEEDS = [0, 1, 2]
GRAY = {"mean": [0.286] * 3, "std": [0.353] * 3}
TEMPERATURE = 4.0
KD: dict[str, Any] = {
    "ce": {},
    "kd": {"weight": 4.0, "temperature": TEMPERATURE},
    "warmup_epochs": 5,
}
DTKD: dict[str, Any] = {
    "ce": {},
    "dtkd": {"weight": 3.0, "base_temperature": TEMPERATURE},
    "kd": {"weight": 1.0, "temperature": TEMPERATURE},
    "warmup_epochs": 5,
}


def main() -> int:
    """Run the demo and return the exit status."""
    start_s = time.monotonic()
    print("starting Ray and MLflow on loopback ...", flush=True)
    stack = up()
    data = convert_all(stack)
    experiment = time.strftime("fashion-mnist %Y-%m-%d %H:%M:%S")
    runs = FOLDER / "runs" / time.strftime("%Y%m%d-%H%M%S")
    runs.mkdir(parents=True)

    print("training the teacher on 60,000 images ...", flush=True)
    train(stack, runs, teacher_spec(data, runs, experiment))
    weights = runs / "teacher" / "student.safetensors"
    teacher = {
        "model": "cifar:small_cnn",
        "weights": {"source": str(weights)},
        "min_top1": 0.8,
    }
    print("training a student on 1,000 images, with DTKD ...", flush=True)
    alone = student_spec(data, runs, experiment)
    train(stack, runs, {**alone, "name": "dtkd", "teacher": teacher, "losses": DTKD})
    print(f"comparing without a teacher, KD and DTKD, with {len(SEEDS)} seeds each ...", flush=True)
    comparison = {
        "name": "comparison",
        "base": alone,
        "base_label": "alone",
        "variants": {
            "kd": {"teacher": teacher, "losses": KD},
            "dtkd": {"teacher": teacher, "losses": DTKD},
        },
        "seeds": SEEDS,
    }
    seconds = submit(stack, runs, "jobs/compare.py", comparison)
    print(f"  in {seconds:.0f} s\n\n{(runs / 'comparison' / 'results.txt').read_text()}")
    print(f"the comparison's page: {runs / 'comparison' / 'compare.html'}")
    print(f"the page of the student with DTKD: {runs / 'dtkd' / PAGE_NAME}")
    print(f"temperatures of the student with DTKD: {draw_temperatures(runs / 'dtkd')}")
    print(f"total time: {time.monotonic() - start_s:.0f} s")
    print(f"MLflow UI: {experiment_page(stack, experiment)}")
    print(f"Ray dashboard: {stack.dashboard_url} (token in {FOLDER / 'ray_token'})")
    print(
        "Both listen on loopback only. To submit jobs takes the token; MLflow has no password: "
        "users of this machine can read and change what it has"
    )
    print("stop everything: make demo-down")
    return 0


def convert_all(stack: Stack) -> dict[str, str]:
    """Convert the .beton files that do not exist yet; returns their paths by name."""
    parts = {
        "train": ("train-images-idx3-ubyte.gz", []),
        "val": ("t10k-images-idx3-ubyte.gz", []),
        "few": ("train-images-idx3-ubyte.gz", ["--per-class", str(NUM_IMAGES_PER_CLASS)]),
    }
    paths = {}
    for name, (source, options) in parts.items():
        path = FOLDER / "data" / f"{name}.beton"
        paths[name] = str(path)
        if not path.exists():
            command = [sys.executable, "jobs/convert.py", str(SOURCE / source), str(path)]
            command += ["--format", "raw", *options]
            subprocess.run(command, cwd=ROOT, env=stack.environment(), check=True)
    return paths


def teacher_spec(data: dict[str, str], runs: Path, experiment: str) -> dict[str, Any]:
    """Training without distillation on all images."""
    return {
        **_spec("teacher", data["train"], data["val"]),
        "student": {"model": "cifar:small_cnn"},
        "schedule": {"num_epochs": 5, "kind": "cosine", "warmup_epochs": 0.5},
        "resources": {"num_workers": 2, "cpus_per_worker": 1},
        "checkpoints": {"storage_path": str(runs)},
        "evaluation": {"resize_size": 28, "crop_size": 28},
        "tracking": {"experiment": experiment, "log_every_steps": 100},
    }


def student_spec(data: dict[str, str], runs: Path, experiment: str) -> dict[str, Any]:
    """A small student on few images, without a teacher."""
    return {
        **_spec("alone", data["few"], data["val"]),
        "student": {"model": "cifar:tiny_cnn"},
        "schedule": {"num_epochs": 60, "kind": "cosine", "warmup_epochs": 2},
        "resources": {"cpus_per_worker": 1},
        "checkpoints": {"storage_path": str(runs), "every_epochs": 30},
        "evaluation": {"resize_size": 28, "crop_size": 28, "every_epochs": 15},
        "tracking": {"experiment": experiment, "log_every_steps": 7},
    }


def _spec(name: str, train: str, val: str) -> dict[str, Any]:
    """What all runs have in common."""
    return {
        "name": name,
        "dataset": {"train": train, "val": val, "num_classes": 10, "normalization": GRAY},
        "augmentation": {"crop": "pad_and_crop", "size": 28, "padding": 2},
        "optimizer": {"learning_rate": 0.1, "weight_decay": 5e-4, "nesterov": True},
        "training": {"global_batch_size": 128, "micro_batch_size": 64},
    }


def train(stack: Stack, runs: Path, spec: dict[str, Any]) -> None:
    """Train one network with a job of its own, and print its accuracy from MLflow."""
    seconds = submit(stack, runs, "jobs/distill.py", spec)
    run_id = (runs / spec["name"] / "mlflow_run_id").read_text().strip()
    run = MlflowClient(stack.mlflow_url).get_run(run_id)
    top1 = run.data.metrics["result/last_top1"]
    print(f"  {spec['name']}: top-1 {top1:.2%} in {seconds:.0f} s", flush=True)


def experiment_page(stack: Stack, experiment: str) -> str:
    """The address of all runs in MLflow's UI."""
    found = MlflowClient(stack.mlflow_url).get_experiment_by_name(experiment)
    assert found is not None, "the runs are there"
    return f"{stack.mlflow_url}/#/experiments/{found.experiment_id}?{UI_MODE}"


def submit(stack: Stack, runs: Path, script: str, spec: dict[str, Any]) -> float:
    """Run a spec with ``ray job submit``; returns the seconds it took, or exits if it fails."""
    path = runs / f"{spec['name']}.json"
    path.write_text(json.dumps(spec, indent=1) + "\n")
    command = ["ray", "job", "submit", "--address", stack.dashboard_url, "--"]
    command += ["python", script, str(path)]
    start_s = time.monotonic()
    log_path = path.with_suffix(".log")
    status = run_logged(command, stack, log_path)
    while (
        status != 0 and NOT_READY in log_path.read_text() and time.monotonic() < start_s + START_S
    ):
        time.sleep(1)
        status = run_logged(command, stack, log_path)
    if status != 0:
        raise SystemExit(f"{' '.join(command)}\nfailed with status {status}; see {log_path}")
    return time.monotonic() - start_s


def run_logged(command: Sequence[str], stack: Stack, log_path: Path) -> int:
    """Run a command with its output in a file; returns its exit status."""
    with log_path.open("w") as log:
        return subprocess.run(
            command, cwd=ROOT, env=stack.environment(), stdout=log, stderr=log, check=False
        ).returncode


def draw_temperatures(run_path: Path) -> Path:
    """Draw both temperatures over a run; returns the path of the picture."""
    events = read_events(run_path / JOURNAL_NAME)
    title = "DTKD, 1,000 images of Fashion-MNIST"
    path = run_path / "temperatures.svg"
    temperature_figure(events, "dtkd", TEMPERATURE, title).savefig(path)
    return path


if __name__ == "__main__":
    sys.exit(main())
