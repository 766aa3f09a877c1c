"""Trains the runs of a job spec or of a comparison on one GPU, without Ray or MLflow.

    python tests/gpu/train.py SPEC.json [--processes N] [--limit-s SECONDS]

Runs of small networks leave most of a GPU idle between kernels, so several processes share it; each
trains one run at a time, as a job's worker does, in the folder that a job would use. A comparison's
runs start seed by seed. Runs that have a result are not trained again; what is not done after
--limit-s is ended. Where Ray and MLflow are, jobs/compare.py then finds the runs finished, and
writes the tables. Comparisons that tune their losses need it for all of it. It runs on the CPU
where there is no GPU. Exit status: 0 every run has finished, 1 not, 2 bad input.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from service.compare.loading import parse_comparison
from service.result import collect_result
from service.run.folder import write_spec
from service.run.result import read_result
from service.run.scripts import ScriptParser
from service.spec.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_FAILED,
    BadInputError,
    Problem,
)
from service.spec.job import JobSpec
from service.spec.loading import parse_spec, read_json
from service.training.distributed import World, prepare_process
from service.training.trainer import train

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NUM_CPUS = len(os.sched_getaffinity(0))


def main(arguments: list[str]) -> int:
    """Train what is left and return the exit status."""
    parser = ScriptParser(__doc__)
    parser.add_argument("spec", type=Path, metavar="SPEC.json")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time (1)")
    parser.add_argument("--limit-s", type=int, default=540, help="seconds for all of it (540)")
    options = parser.parse_args(arguments)
    end_s = time.monotonic() + options.limit_s
    if options.processes < 1:
        parser.error("--processes: give at least 1")
    try:
        specs = load_specs(options.spec)
    except BadInputError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{NUM_CPUS} CPUs"
    print(f"{name}, torch {torch.__version__}, {len(specs)} runs", flush=True)
    train_until(specs, options.processes, end_s)
    are_finished = all(read_result(spec.run_path) is not None for spec in specs)
    return EXIT_DONE if are_finished else EXIT_FAILED


def load_specs(path: Path) -> list[JobSpec]:
    """The spec of a job, or those of a comparison's runs.

    Raises:
        BadInputError: with every problem found.
    """
    content, subject = read_json(path), str(path)
    if not (isinstance(content, dict) and "base" in content):
        return [parse_spec(content, subject)]
    loaded = parse_comparison(content, subject)
    if loaded.compare.tuned is not None:
        problem = Problem("tuned", "cannot be done by this script", "use jobs/compare.py")
        raise BadInputError(subject, [problem])
    return list(loaded.run_specs().values())


def train_until(specs: Sequence[JobSpec], num_processes: int, end_s: float) -> None:
    """Train in their order the runs that have no result; what is not done at ``end_s`` is ended."""
    left = [spec for spec in specs if read_result(spec.run_path) is None]
    run, start_s = partial(train_run, num_cpus=max(1, NUM_CPUS // num_processes)), time.monotonic()
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        results = pool.imap_unordered(run, left)
        for index in range(len(left)):
            try:
                name, top1 = results.next(max(0.0, end_s - time.monotonic()))
                text = f"{name}: {top1:.2%}"
            except multiprocessing.TimeoutError:
                print(f"no time left for {len(left) - index} runs", flush=True)
                return
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
            print(f"{time.monotonic() - start_s:5.0f} s  {text}", flush=True)


def train_run(spec: JobSpec, num_cpus: int) -> tuple[str, float]:
    """Train one run to its end; returns its name and the top-1 of its last epoch, 0 to 1."""
    prepare_process(
        DEVICE,
        deterministic=spec.training.deterministic,
        matmul_precision=spec.training.matmul_precision,
    )
    spec.run_path.mkdir(parents=True, exist_ok=True)
    write_spec(spec)
    train(spec, World(0, 1, DEVICE, num_cpus))
    result = collect_result(spec.run_path, spec.schedule.num_epochs)
    assert result.progress.last_top1 is not None, "every run is evaluated after its last epoch"
    return spec.name, result.progress.last_top1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
