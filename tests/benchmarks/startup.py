"""Start of a job: seconds from its command to its first step, on a cluster that runs already.

    python tests/benchmarks/startup.py [--rounds N] [--json FILE]

A student is distilled from a teacher on one worker, alone on the cluster. Most of the time goes
into starting Python and importing torch, Ray and MLflow, so the CPU time until then is shown too.
"""

import argparse
import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
import torch
from safetensors.torch import save_file
from support.spec_contents import NUM_CLASSES, spec_content, write_stripes
from table import Ratio, add_json_option, at_most, report

from service.models.build import build_model
from service.run.journal import JOURNAL_NAME, read_events

ROOT = Path(__file__).parents[2]
GOAL_S = 10.0
POLL_S = 0.02
# Of one job, which ends in seconds.
LIMIT_S = 300.0


class Start(NamedTuple):
    """Seconds to the first step; ``cpu_s``: of the driver, and of all processes of Ray."""

    wall_s: float
    driver_cpu_s: float
    ray_cpu_s: float


def main(arguments: list[str]) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="jobs; medians are reported")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_files(folder)
        with warm_cluster(folder) as (raylet, environment):
            # The first job of a cluster also reads what is imported from the disk.
            starts = [
                start_job(folder, f"r{index}", raylet, environment)
                for index in range(options.rounds + 1)
            ][1:]
    report(ratios(starts), options.json)
    return 0


def ratios(starts: list[Start]) -> list[Ratio]:
    """Medians over the jobs."""
    wall_s, driver_cpu_s, ray_cpu_s = (
        statistics.median(column) for column in zip(*starts, strict=True)
    )
    return [
        at_most("first step of a job on a warm cluster (s)", wall_s, GOAL_S),
        Ratio("CPU time of its driver until then (s)", round(driver_cpu_s, 2), "-", None),
        Ratio("CPU time of its Ray processes until then (s)", round(ray_cpu_s, 2), "-", None),
    ]


def write_files(folder: Path) -> None:
    """Images, and a teacher's weights."""
    write_stripes(folder / "train.beton", 256, seed=1)
    write_stripes(folder / "val.beton", 64, seed=2)
    torch.manual_seed(9)
    model = build_model("cifar:resnet8", NUM_CLASSES)
    save_file(model.state_dict(), folder / "teacher.safetensors")


@contextlib.contextmanager
def warm_cluster(folder: Path) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """A cluster of its own: its raylet, and the environment of those who join it."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {**os.environ, **token, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code = (
        "import ray, sys; context = ray.init('local', num_cpus=2, include_dashboard=False); "
        "print(context.address_info['address'], flush=True); sys.stdin.read()"
    )
    head = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**environment, "RAY_worker_niceness": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert head.stdin is not None
    assert head.stdout is not None
    try:
        address = head.stdout.readline().strip()
        children = psutil.Process(head.pid).children()
        raylet = next(child for child in children if child.name() == "raylet")
        yield raylet, {**environment, "RAY_ADDRESS": address}
    finally:
        head.stdin.close()
        head.wait()


def start_job(
    folder: Path, name: str, raylet: psutil.Process, environment: dict[str, str]
) -> Start:
    """Run a job to its end; when it made its first step, and what was computed until then."""
    teacher = {"model": "cifar:resnet8"}
    teacher |= {"weights": {"source": str(folder / "teacher.safetensors")}}
    content = spec_content(
        folder,
        folder / "runs",
        name=name,
        teacher=teacher,
        resources={"num_workers": 1},
        schedule={"num_epochs": 1, "milestones": []},
        tracking={"log_every_steps": 1},
    )
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    before_s = cpu_s([raylet, *raylet.children(recursive=True)])
    start_s = time.perf_counter()
    with (folder / f"{name}.log").open("w") as log:
        job = psutil.Popen(
            [sys.executable, "jobs/distill.py", str(path)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )
        wait_for_step(folder / "runs" / name, job, start_s + LIMIT_S, Path(log.name))
        wall_s, driver_cpu_s = time.perf_counter() - start_s, cpu_s([job])
        ray_cpu_s = cpu_s([raylet, *raylet.children(recursive=True)]) - before_s
        job.wait(LIMIT_S)
    print(f"{name}: {wall_s:.1f} s, CPU {driver_cpu_s:.1f} s + {ray_cpu_s:.1f} s", flush=True)
    return Start(wall_s, driver_cpu_s, ray_cpu_s)


def wait_for_step(run_path: Path, job: psutil.Popen, deadline_s: float, log: Path) -> None:
    """Wait for the first step's event in the run's journal."""
    path = run_path / JOURNAL_NAME
    while not (path.exists() and any(event.step == 1 for event in read_events(path))):
        assert job.poll() is None, log.read_text()
        assert time.perf_counter() < deadline_s, "the job has made no step"
        time.sleep(POLL_S)


def cpu_s(processes: list[psutil.Process]) -> float:
    """CPU time of those that run, and of their children that have ended."""
    total_s = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total_s += sum(times[:4])
    return total_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
