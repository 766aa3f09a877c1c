"""Distillation on real data: a teacher on all of Fashion-MNIST, students on 1,000 of its images.

Each network is trained by its own Ray job, submitted with ``ray job submit``. The table at the end
is read from MLflow.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mlflow import MlflowClient
from stack import FOLDER, ROOT, Stack, up

from service.run.figures import temperature_figure
from service.run.journal import JOURNAL_NAME, read_events
from service.tracking.mlflow_run import UI_MODE

SOURCE = Path("/usr/share/datasets/fashion-mnist")
NUM_IMAGES_PER_CLASS = 100
# What Ray's dashboard says while the process that starts jobs is not there yet, on a busy machine.
NOT_READY = "No available agent to submit job"
START_S = 120.0
SEEDS = (0, 1, 2)
NUM_CONCURRENT_JOBS = 2
GRAY = {"mean": [0.286] * 3, "std": [0.353] * 3}
TEMPERATURE = 4.0
METHODS: dict[str, dict[str, Any] | None] = {
    "alone": None,
    "kd": {"ce": {}, "kd": {"weight": 4.0, "temperature": TEMPERATURE}, "warmup_epochs": 5},
    "dtkd": {
        "ce": {},
        "dtkd": {"weight": 3.0, "base_temperature": TEMPERATURE},
        "kd": {"weight": 1.0, "temperature": TEMPERATURE},
        "warmup_epochs": 5,
    },
}
"""The losses of the students; None: those of a job without a teacher."""


class Outcome(NamedTuple):
    """One finished job: top-1 in [0, 1], seconds from submission to exit, URL of the MLflow run."""

    name: str
    top1: float
    seconds: float
    address: str


def main() -> int:
    """Run the demo and return the exit status."""
    start_s = time.monotonic()
    print("starting Ray and MLflow on loopback ...", flush=True)
    stack = up()
    data = convert_all(stack)
    experiment = time.strftime("fashion-mnist %Y-%m-%d %H:%M:%S")
    runs = FOLDER / "runs" / time.strftime("%Y%m%d-%H%M%S")

    def run(name: str, spec: dict[str, Any]) -> Outcome:
        return submit(stack, name, spec, runs, experiment)

    print("training the teacher on 60,000 images ...", flush=True)
    teacher = run("teacher", teacher_spec(data))
    weights = runs / "teacher" / "student.safetensors"
    print(f"training {len(METHODS) * len(SEEDS)} students on 1,000 images ...", flush=True)
    specs = {
        f"{method}-seed{seed}": student_spec(data, weights, METHODS[method], seed)
        for method in METHODS
        for seed in SEEDS
    }
    with ThreadPoolExecutor(NUM_CONCURRENT_JOBS) as pool:
        outcomes = [teacher, *pool.map(run, specs.keys(), specs.values())]
    print(table(outcomes))
    print(f"\ntemperatures of dtkd-seed0: {draw_temperatures(runs / 'dtkd-seed0')}")
    print(f"total time: {time.monotonic() - start_s:.0f} s")
    print(f"MLflow UI: {outcomes[0].address.split('/runs/')[0]}?{UI_MODE}")
    print(f"Ray dashboard: {stack.dashboard_url} (token in {FOLDER / 'ray_token'})")
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


def teacher_spec(data: dict[str, str]) -> dict[str, Any]:
    """Training without distillation on all images."""
    return {
        "dataset": _dataset(data["train"], data["val"]),
        "student": {"model": "cifar:small_cnn"},
        "schedule": {"num_epochs": 5, "kind": "cosine", "warmup_epochs": 0.5},
        "evaluation": {"resize_size": 28, "crop_size": 28, "every_epochs": 1},
        "tracking": {"log_every_steps": 100},
    }


def student_spec(
    data: dict[str, str], weights: Path, losses: dict[str, Any] | None, seed: int
) -> dict[str, Any]:
    """A small student on few images; distilled from the teacher if losses are given."""
    spec: dict[str, Any] = {
        "seed": seed,
        "dataset": _dataset(data["few"], data["val"]),
        "student": {"model": "cifar:tiny_cnn"},
        "schedule": {"num_epochs": 60, "kind": "cosine", "warmup_epochs": 2},
        "checkpoints": {"every_epochs": 30},
        "evaluation": {"resize_size": 28, "crop_size": 28, "every_epochs": 15},
        "tracking": {"log_every_steps": 70},
    }
    if losses is not None:
        spec["losses"] = losses
        spec["teacher"] = {
            "model": "cifar:small_cnn",
            "weights": {"source": str(weights)},
            "min_top1": 0.8,
        }
    return spec


def _dataset(train: str, val: str) -> dict[str, Any]:
    return {"train": train, "val": val, "num_classes": 10, "normalization": GRAY}


def submit(stack: Stack, name: str, spec: dict[str, Any], runs: Path, experiment: str) -> Outcome:
    """Run one spec with ray job submit and read its result from MLflow."""
    spec = {
        "name": name,
        "augmentation": {"crop": "pad_and_crop", "size": 28, "padding": 2},
        "optimizer": {"learning_rate": 0.1, "weight_decay": 5e-4, "nesterov": True},
        "training": {"global_batch_size": 128, "micro_batch_size": 64},
        "resources": {"num_workers": 2, "cpus_per_worker": 1},
        **spec,
    }
    spec["checkpoints"] = {"storage_path": str(runs), **spec.get("checkpoints", {})}
    spec["tracking"] = {"experiment": experiment, **spec["tracking"]}
    path = runs / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(spec, indent=1) + "\n")
    command = ["ray", "job", "submit", "--address", stack.dashboard_url, "--"]
    command += ["python", "jobs/distill.py", str(path)]
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
    outcome = read_outcome(stack, name, runs, time.monotonic() - start_s)
    print(f"  {name}: top-1 {outcome.top1:.2%} in {outcome.seconds:.0f} s", flush=True)
    return outcome


def run_logged(command: Sequence[str], stack: Stack, log_path: Path) -> int:
    """Run a command with its output in a file; returns its exit status."""
    with log_path.open("w") as log:
        return subprocess.run(
            command, cwd=ROOT, env=stack.environment(), stdout=log, stderr=log, check=False
        ).returncode


def read_outcome(stack: Stack, name: str, runs: Path, seconds: float) -> Outcome:
    """The result of a finished job, read from MLflow."""
    run = MlflowClient(stack.mlflow_url).get_run(
        (runs / name / "mlflow_run_id").read_text().strip()
    )
    page = f"{stack.mlflow_url}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    return Outcome(name, run.data.metrics["result/last_top1"], seconds, page)


def draw_temperatures(run_path: Path) -> Path:
    """Draw both temperatures over a run; returns the path of the picture."""
    events = read_events(run_path / JOURNAL_NAME)
    title = "DTKD, 1,000 images of Fashion-MNIST"
    path = run_path / "temperatures.svg"
    temperature_figure(events, TEMPERATURE, title).savefig(path)
    return path


def table(outcomes: Sequence[Outcome]) -> str:
    """Mean and standard deviation of top-1, and mean seconds, for each method."""
    lines = [f"\n{'':<10}{'seeds':>6}{'top-1 %':>16}{'s per job':>11}  runs"]
    for method in ("teacher", *METHODS):
        found = [o for o in outcomes if o.name.split("-")[0] == method]
        shares = [100 * outcome.top1 for outcome in found]
        text = f"{statistics.mean(shares):.2f}"
        if len(shares) > 1:
            text += f" +- {statistics.stdev(shares):.2f}"
        seconds = statistics.mean(outcome.seconds for outcome in found)
        lines.append(f"{method:<10}{len(found):>6}{text:>16}{seconds:>11.0f}  {found[0].address}")
        lines += [f"{'':<45}{outcome.address}" for outcome in found[1:]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
