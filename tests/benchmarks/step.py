"""What a training step costs, against torchdistill, plain loops, and training on labels alone.

    python tests/benchmarks/step.py [--only ROW ...] [--rounds N] [--quick] [--json FILE]

The whole job is ResNet-34 -> ResNet-18 at 224 px with photos on disk, 32 a step, on all cores; the
other networks are those of CIFAR at 32 px. --quick tries all rows with few steps; its figures mean
nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from data import default_photos, repeated
from pipelines import NUM_THREADS, SIZE
from plain_loops import PlainStep, run_bare_rank
from safetensors.torch import save_file
from support.resident_steps import resident_steps
from support.spec_contents import write_stripes
from support.training_runs import CPU, run_ranks
from table import Comparison, Ratio, add_json_option, compare, report
from torchdistill_job import TorchdistillJob, install

from data_pipeline.convert import convert
from data_pipeline.encode import Encoding
from data_pipeline.selection import Selection
from data_pipeline.sources import open_source
from service.models.build import build_model
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.loading import parse_spec
from service.training.distributed import World, keep_freed_memory
from service.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
BATCH_SIZE, NUM_WARMUP_STEPS = 32, 1
MIN_DURATION_S = 3.0
# Goals of the whole job: without AMX and with it, which makes bfloat16 faster.
JOB_GOALS = {
    ("float32", "live"): (1.25, 1.25),
    ("float32", "cached"): (1.9, 1.9),
    ("bfloat16", "live"): (2.45, 3.5),
    ("bfloat16", "cached"): (3.7, 5.0),
}
KD_COST_GOAL = 1.6
SERVICE_COST_GOAL = 1.03
TINY = {
    "tiny_cnn from small_cnn, 64 images": ("cifar:tiny_cnn", "cifar:small_cnn", 64, 1.0),
    "tiny_cnn from small_cnn, 128 images": ("cifar:tiny_cnn", "cifar:small_cnn", 128, 1.0),
    "resnet20 from resnet56, 64 images": ("cifar:resnet20", "cifar:resnet56", 64, 1.3),
}


class Bench:
    """Specs of runs in a temporary folder, and what must be closed at the end."""

    def __init__(self, folder: Path, resources: ExitStack, *, is_quick: bool):
        self.folder, self.resources, self.is_quick = folder, resources, is_quick
        self.num_steps = 1 if is_quick else 4
        self.world = World(0, 1, CPU, NUM_THREADS)
        self._count = 0

    def content(
        self, student: str, teacher: str | None, size: int, num_classes: int, **sections: Any
    ) -> dict[str, Any]:
        """A spec's JSON content under a new name; its data is to be given."""
        self._count += 1
        content: dict[str, Any] = {
            "name": f"r{self._count}",
            "dataset": {"num_classes": num_classes},
            "augmentation": {"size": size},
            "student": {"model": student},
            "optimizer": {"learning_rate": 1e-4},
            # A long run, which is worth compiling for.
            "schedule": {"num_epochs": 100_000, "milestones": []},
            "resources": {"cpus_per_worker": NUM_THREADS},
            "checkpoints": {"storage_path": str(self.folder / "runs")},
            "evaluation": {"resize_size": size, "crop_size": size},
        }
        if teacher is not None:
            path = self.folder / f"{teacher.replace(':', '-')}-{num_classes}.safetensors"
            torch.manual_seed(0)
            save_file(build_model(teacher, num_classes).state_dict(), path)
            content["teacher"] = {"model": teacher, "weights": {"source": str(path)}}
        for name, section in sections.items():
            content[name] = {**content.get(name, {}), **section}
        return content

    def rate(self, step: Callable[[], object], num_images: int) -> Callable[[], float]:
        """Images per second of ``step``, after two that are not measured."""

        def measured() -> float:
            torch.set_num_threads(NUM_THREADS)
            step()
            step()
            num_steps, start_s = 0, time.perf_counter()
            while time.perf_counter() - start_s < (0.1 if self.is_quick else MIN_DURATION_S):
                step()
                num_steps += 1
            return num_steps * num_images / (time.perf_counter() - start_s)

        return measured

    def stripes(self, num_images: int) -> dict[str, str]:
        """A dataset section's files of small images."""
        paths = {name: self.folder / f"{name}{num_images}.beton" for name in ("train", "val")}
        for seed, path in enumerate(paths.values()):
            write_stripes(path, num_images, seed)
        return {name: str(path) for name, path in paths.items()}


class WholeJob:
    """The service's trainer on photos, from the disk to the updated weights."""

    def __init__(self, bench: Bench, beton: Path, precision: str, *, is_cached: bool):
        self._bench, self._is_filled = bench, not is_cached
        content = bench.content(
            "resnet18",
            "resnet34",
            SIZE,
            1000,
            dataset={"train": str(beton), "val": str(beton)},
            training={"global_batch_size": BATCH_SIZE, "precision": precision},
            losses={"ce": {"weight": 0.5}, "kd": {"weight": 0.5, "temperature": 1.0}},
        )
        if is_cached:
            content["teacher"]["cache"] = {"epochs": 1}
        spec = parse_spec(content)
        spec.run_path.mkdir(parents=True)
        self._trainer = bench.resources.enter_context(Trainer(spec, bench.world, lambda: None))

    def __call__(self) -> float:
        """Images per second of an epoch; with a cache, of one whose logits are stored."""
        if not self._is_filled:
            self._epoch()
            self._is_filled = True
        return self._epoch()

    def _epoch(self) -> float:
        torch.set_num_threads(NUM_THREADS)
        num_images = 0
        for index, batch in enumerate(self._trainer.remaining_batches()):
            if index == NUM_WARMUP_STEPS:
                num_images, start_s = 0, time.perf_counter()
            self._trainer.step(batch)
            num_images += len(batch.labels)
        self._trainer.progress.epoch += 1
        self._trainer.progress.step_in_epoch = 0
        return num_images / (time.perf_counter() - start_s)


def whole_job(bench: Bench) -> Iterator[Comparison | Ratio]:
    """Against torchdistill, in both precisions, with the teacher and with its stored logits."""
    reason = install(bench.folder / "torchdistill")
    if reason:
        yield Ratio(f"whole job / torchdistill: {reason}", float("nan"), "-", None)
        return
    num_images = (NUM_WARMUP_STEPS + bench.num_steps) * BATCH_SIZE
    photos = repeated(default_photos(), bench.folder / "photos", num_images)
    beton = bench.folder / "photos.beton"
    convert(open_source(photos), beton, Encoding(), Selection(), NUM_THREADS)
    rival = TorchdistillJob(photos, BATCH_SIZE, NUM_WARMUP_STEPS)
    has_amx = "amx_bf16" in Path("/proc/cpuinfo").read_text()
    for (precision, kind), goals in JOB_GOALS.items():
        job = WholeJob(bench, beton, precision, is_cached=kind == "cached")
        name = f"whole job, {precision}, {kind} / torchdistill"
        yield Comparison(name, job, rival, goals[has_amx])


def tiny_students(bench: Bench) -> Iterator[Comparison | Ratio]:
    """Steps on a resident batch against plain loops with the same losses."""
    for name, (student, teacher, batch_size, goal) in TINY.items():
        content = bench.content(
            student,
            teacher,
            32,
            4,
            dataset=bench.stripes(batch_size),
            training={"global_batch_size": batch_size},
        )
        steps = bench.resources.enter_context(resident_steps(parse_spec(content), bench.world))
        plain = PlainStep(student, teacher, steps.batch.images, steps.batch.labels)
        rates = (bench.rate(step, batch_size) for step in (steps.step, plain))
        yield Comparison(f"{name} / plain loop", *rates, goal)


def kd_cost(bench: Bench) -> Iterator[Comparison | Ratio]:
    """A step with a teacher against one with labels alone."""
    for precision in ("float32", "bfloat16"):
        rates = []
        for teacher in ("resnet34", None):
            content = bench.content(
                "resnet18",
                teacher,
                SIZE,
                1000,
                dataset=bench.stripes(BATCH_SIZE),
                training={"global_batch_size": BATCH_SIZE, "precision": precision},
            )
            steps = bench.resources.enter_context(resident_steps(parse_spec(content), bench.world))
            rates.append(bench.rate(steps.step, BATCH_SIZE))
        name = f"time of KD / of CE, R34 -> R18, {precision}"
        yield Comparison(name, *rates, KD_COST_GOAL, is_cost=True)


def service(bench: Bench) -> Iterator[Comparison | Ratio]:
    """A job of two workers on Ray Train against a hand-written DDP loop over the same batches."""
    num_epochs, num_images, batch_size = (2, 256, 128) if bench.is_quick else (8, 2048, 128)
    num_warmup_steps = num_images // batch_size

    def content() -> dict[str, Any]:
        return bench.content(
            "cifar:resnet20",
            "cifar:resnet56",
            32,
            4,
            dataset=bench.stripes(num_images),
            schedule={"num_epochs": num_epochs},
            training={"global_batch_size": batch_size, "micro_batch_size": batch_size // 2},
            resources={"num_workers": 2, "cpus_per_worker": NUM_THREADS // 2},
            evaluation={"every_epochs": num_epochs},
            tracking={"log_every_steps": 8 if not bench.is_quick else 1},
        )

    def with_service() -> float:
        described = content()
        path = bench.folder / "spec.json"
        path.write_text(json.dumps(described))
        command = [sys.executable, str(ROOT / "jobs" / "distill.py"), str(path)]
        environment = {**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        events = read_events(parse_spec(described).run_path / JOURNAL_NAME)
        rates = [
            event.values["speed/images_per_s"]
            for event in events
            if event.kind == "interval" and event.step > num_warmup_steps
        ]
        # Intervals have as many images each.
        return len(rates) / sum(1 / rate for rate in rates)

    def bare() -> float:
        with tempfile.TemporaryDirectory() as folder:
            described = content()
            parse_spec(described).run_path.mkdir(parents=True)
            run_ranks(run_bare_rank, (described, 2, Path(folder), num_warmup_steps), 2)
            return float((Path(folder) / "rate").read_text())

    name = "time of the service / of a bare DDP loop"
    yield Comparison(name, with_service, bare, SERVICE_COST_GOAL, is_cost=True)


ROWS = {"job": whole_job, "tiny": tiny_students, "kd-cost": kd_cost, "service": service}


def main(arguments: list[str]) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, metavar="ROW")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; medians are reported")
    parser.add_argument("--quick", action="store_true", help="few steps, to try it")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    # As in a training worker without a GPU.
    keep_freed_memory()
    ratios: list[Ratio] = []
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as resources:
            rows = list(ROWS[name](Bench(Path(folder), resources, is_quick=options.quick)))
            comparisons = [row for row in rows if isinstance(row, Comparison)]
            ratios += [row for row in rows if isinstance(row, Ratio)]
            ratios += compare(comparisons, options.rounds, "img/s")
    report(ratios, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
