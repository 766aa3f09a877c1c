"""Train a handful of small specs with the code beside this file: python tests/golden/runs.py OUT.

OUT gets a folder for each case with series.json (what every step and evaluation reported, without
what clocks say) and weights.safetensors. Runs of two revisions on one machine are compared by
compare.py, bit for bit.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from service.run.journal import JOURNAL_NAME, read_events  # noqa: E402

NUM_CLASSES, SIZE = 4, 24
LIMIT_S = 300
KILL_AT_STEP = 5

# Groups of metrics that depend on clocks and on what else the machine does.
MACHINE_GROUPS = ("speed/", "system/")


def main(arguments: list[str]) -> int:
    """Run all cases and return the exit status."""
    out = Path(arguments[0]).absolute()
    shutil.rmtree(out, ignore_errors=True)
    work = out / "work"
    work.mkdir(parents=True)
    data = make_data(work)
    ray.init("local", num_cpus=4, include_dashboard=False, logging_level="ERROR")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    teacher = base_spec("teacher", data, work, seed=7)
    teacher["student"] = {"model": "cifar:small_cnn"}
    run_job(teacher, work, environment)
    weights = work / "runs" / "teacher" / "student.safetensors"
    for name, spec in cases(data, work, weights).items():
        start_s = time.monotonic()
        if name == "interrupted":
            run_job(spec, work, environment, kill_at_step=KILL_AT_STEP)
        run_job(spec, work, environment)
        keep(work / "runs" / name, out / name)
        print(f"{name}: {time.monotonic() - start_s:.0f} s", flush=True)
    sweep = sweep_spec(data, work, weights)
    run_script("sweep.py", sweep, work, environment).wait()
    for number in range(sweep["budget"]["trials"]):
        trial = f"trial-{number:04d}"
        keep(work / "runs" / "sweep" / "trials" / trial, out / f"sweep-{trial}")
    ray.shutdown()
    shutil.rmtree(work)
    return 0


def make_data(work: Path) -> dict[str, str]:
    """Two small datasets, converted from PNGs whose stripes show their class."""
    paths = {}
    for split, num_images, seed in (("train", 256, 1), ("val", 101, 2)):
        generator = np.random.default_rng(seed)
        for index in range(num_images):
            label = index % NUM_CLASSES
            pixels = generator.integers(0, 130, (SIZE, SIZE, 3))
            pixels[6 * label : 6 * label + 6] += 60
            folder = work / "images" / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:04d}.png")
        path = work / f"{split}.beton"
        command = [sys.executable, "jobs/convert.py", str(work / "images" / split), str(path)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        paths[split] = str(path)
    return paths


def base_spec(name: str, data: dict[str, str], work: Path, seed: int = 0) -> dict[str, Any]:
    """A student on its own, on one worker."""
    return {
        "name": name,
        "seed": seed,
        "dataset": {**data, "num_classes": NUM_CLASSES},
        "augmentation": {
            "size": 16,
            "rand_augment": {"num_ops": 1},
            "erasing": {},
            "mixing": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "probability": 0.5},
        },
        "student": {"model": "cifar:tiny_cnn"},
        "optimizer": {"learning_rate": 0.05, "nesterov": True},
        "schedule": {"num_epochs": 3, "kind": "cosine", "warmup_epochs": 1},
        "training": {"global_batch_size": 64, "micro_batch_size": 16, "ema_decay": 0.9},
        "resources": {"num_workers": 1, "cpus_per_worker": 1, "max_failures": 0},
        "checkpoints": {"storage_path": str(work / "runs"), "every_steps": 2},
        "evaluation": {"resize_size": 20, "crop_size": 16, "batch_size": 32},
        "tracking": {"log_every_steps": 1},
    }


def cases(data: dict[str, str], work: Path, teacher: Path) -> dict[str, dict[str, Any]]:
    """The specs by name."""

    def spec(name: str, num_workers: int, **losses: Any) -> dict[str, Any]:
        made = base_spec(name, data, work)
        made["resources"]["num_workers"] = num_workers
        if losses:
            made["losses"] = {"ce": {}, **losses, "warmup_epochs": 2}
            made["teacher"] = teacher_section(teacher)
        return made

    def dtkd(name: str, num_workers: int, sharpness: str) -> dict[str, Any]:
        return spec(name, num_workers, dtkd={"sharpness": sharpness}, kd={"weight": 1})

    return {
        "alone": spec("alone", 1),
        "alone-2-workers": spec("alone-2-workers", 2),
        "kd": spec("kd", 1, kd={"weight": 4}),
        "kd-2-workers": spec("kd-2-workers", 2, kd={"weight": 4}),
        "dtkd-max": dtkd("dtkd-max", 1, "max"),
        "dtkd-max-2-workers": dtkd("dtkd-max-2-workers", 2, "max"),
        "dtkd-norm": dtkd("dtkd-norm", 1, "norm"),
        "dtkd-logsumexp": dtkd("dtkd-logsumexp", 1, "logsumexp"),
        "interrupted": dtkd("interrupted", 2, "logsumexp"),
    }


def sweep_spec(data: dict[str, str], work: Path, teacher: Path) -> dict[str, Any]:
    """A random search of four trials, one at a time, none of them stopped."""
    base = base_spec("base", data, work)
    base["teacher"] = teacher_section(teacher)
    base["losses"] = {"ce": {}, "dtkd": {}, "kd": {"weight": 1}, "warmup_epochs": 2}
    return {
        "name": "sweep",
        "base": base,
        "held_out": {"num_images": 64},
        "budget": {"trials": 4},
        "algorithm": {"kind": "random", "seed": 3},
        "scheduler": {"kind": "none"},
        "concurrency": 1,
    }


def teacher_section(weights: Path) -> dict[str, Any]:
    """The teacher that was trained first."""
    return {"model": "cifar:small_cnn", "weights": {"source": str(weights)}}


def run_job(
    spec: dict[str, Any], work: Path, environment: dict[str, str], kill_at_step: int | None = None
) -> None:
    """Run a spec to its end, or until its driver is killed at a step."""
    process = run_script("distill.py", spec, work, environment)
    journal = work / "runs" / spec["name"] / JOURNAL_NAME
    while kill_at_step is not None and process.poll() is None:
        if any(event.step >= kill_at_step for event in read_events(journal)):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    status = process.wait(LIMIT_S)
    log = work / f"{spec['name']}.log"
    if status != (0 if kill_at_step is None else -signal.SIGKILL):
        raise SystemExit(f"{spec['name']} ended with status {status}:\n{log.read_text()}")


def run_script(
    script: str, spec: dict[str, Any], work: Path, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start a job's entry point on a spec."""
    path = work / f"{spec['name']}.json"
    path.write_text(json.dumps(spec))
    with (work / f"{spec['name']}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, f"jobs/{script}", str(path)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )


def keep(run_path: Path, out: Path) -> None:
    """Copy what is compared of a run."""
    out.mkdir(parents=True)
    shutil.copy(run_path / "student.safetensors", out / "weights.safetensors")
    series = [
        [event.kind, event.step, name, value]
        for event in read_events(run_path / JOURNAL_NAME)
        if event.kind in ("interval", "evaluation", "teacher")
        for name, value in sorted(event.values.items())
        if not name.startswith(MACHINE_GROUPS)
    ]
    (out / "series.json").write_text(json.dumps(series))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
