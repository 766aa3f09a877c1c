"""Speed of steps whose teacher's logits are read from the cache, against a live teacher.

    python tests/benchmarks/cache.py [--photos FOLDER] [--precision P] [--rounds N] [--json FILE]

One worker on all cores trains on photos at 224 pixels, in batches of 32; the weights are random,
which changes no speed. Models, data and the first steps are not timed. A comparison's second job
reads what its first one has computed and stored; both are timed.
"""

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from data import default_photos, repeated
from safetensors.torch import save_file
from table import Comparison, add_json_option, compare, report

from data_pipeline.convert import convert
from data_pipeline.encode import Encoding
from data_pipeline.selection import Selection
from data_pipeline.sources import open_source
from service.models.build import build_model
from service.spec.job import JobSpec
from service.spec.loading import parse_spec
from service.training.distributed import World, keep_freed_memory
from service.training.trainer import Trainer

BATCH_SIZE, NUM_CLASSES = 32, 1000
NUM_WARMUP_STEPS, NUM_TIMED_STEPS = 3, 8
# As in a large dataset, none of the steps is one that is computed again to compare.
NUM_IMAGES = 100 * BATCH_SIZE


def main(arguments: list[str]) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="folder with JPEG photos")
    parser.add_argument("--precision", default="float32", help="training.precision of the specs")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians are reported")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary), options.photos or default_photos(), options.precision)
        jobs = Jobs(bench, "resnet34")
        cached, live = bench.cached_and_live("resnet50")
        comparisons = [
            Comparison("R50 -> R18, cached / live", cached, live, 1.8),
            Comparison("R18 without a teacher / R50 -> R18, live", bench.alone, live, None),
            Comparison("R34 -> R18, cached / live", *bench.cached_and_live("resnet34"), None),
            Comparison(
                "R34 -> R18, a comparison's second job / first", jobs.second, jobs.first, 1.5
            ),
        ]
        ratios = compare(comparisons, options.rounds, "img/s")
    report(ratios, options.json)
    return 0


class Bench:
    """A dataset of photos, teachers, and specs of runs."""

    def __init__(self, folder: Path, photos: Path, precision: str):
        self.folder, self._precision = folder, precision
        self._numbers = itertools.count()
        source = open_source(repeated(photos, folder / "photos", NUM_IMAGES))
        self._file = folder / "photos.beton"
        convert(source, self._file, Encoding(), Selection(), os.cpu_count() or 1)

    def spec(self, teacher: str | None, cache: Mapping[str, Any] | None = None) -> JobSpec:
        """A run under a new name; without a teacher it learns from the labels alone."""
        return self._parsed({"losses": {"ce": {}}} if teacher is None else self._of(teacher, cache))

    def _of(self, teacher: str, cache: Mapping[str, Any] | None) -> dict[str, Any]:
        weights = self.folder / f"{teacher}.safetensors"
        if not weights.exists():
            torch.manual_seed(0)
            save_file(build_model(teacher, NUM_CLASSES).state_dict(), weights)
        network = {"model": teacher, "weights": {"source": str(weights)}}
        return {"teacher": network if cache is None else {**network, "cache": dict(cache)}}

    def _parsed(self, sections: Mapping[str, Any]) -> JobSpec:
        spec = parse_spec(
            {
                "name": f"run-{next(self._numbers)}",
                "dataset": {
                    "train": str(self._file),
                    "val": str(self._file),
                    "num_classes": NUM_CLASSES,
                },
                **sections,
                "student": {"model": "resnet18"},
                "training": {"global_batch_size": BATCH_SIZE, "precision": self._precision},
                "resources": {"num_workers": 1, "cpus_per_worker": os.cpu_count() or 1},
                "checkpoints": {"storage_path": str(self.folder / "runs"), "every_minutes": None},
            }
        )
        spec.run_path.mkdir(parents=True)
        return spec

    def cached_and_live(self, teacher: str) -> tuple[Callable[[], float], Callable[[], float]]:
        """Two measurements: with a cache that an earlier run has filled, and without one."""
        cache = {"path": str(self.folder / f"cache-{teacher}")}
        images_per_s(self.spec(teacher, cache))
        return (
            lambda: images_per_s(self.spec(teacher, cache)),
            lambda: images_per_s(self.spec(teacher)),
        )

    def alone(self) -> float:
        """Images per second without a teacher: what no cache can exceed."""
        return images_per_s(self.spec(None))


class Jobs:
    """A comparison's first job, which fills a new cache, and its second one, which reads it."""

    def __init__(self, bench: Bench, teacher: str):
        self._bench, self._teacher = bench, teacher
        self._paths = (bench.folder / f"jobs-{number}" for number in itertools.count())
        self._first_rate = 0.0

    def second(self) -> float:
        """Images per second of the second job, after the first one."""
        cache = {"path": str(next(self._paths))}
        self._first_rate = images_per_s(self._bench.spec(self._teacher, cache))
        return images_per_s(self._bench.spec(self._teacher, cache))

    def first(self) -> float:
        """Images per second of the first job of the same comparison."""
        return self._first_rate


def images_per_s(spec: JobSpec) -> float:
    """The rate of the last steps of an epoch, decoding included."""
    world = World(0, 1, torch.device("cpu"), spec.resources.cpus_per_worker)
    with Trainer(spec, world, lambda: None) as trainer:
        batches = trainer.remaining_batches()
        for batch in itertools.islice(batches, NUM_WARMUP_STEPS):
            trainer.step(batch)
        start_s = time.perf_counter()
        for batch in itertools.islice(batches, NUM_TIMED_STEPS):
            trainer.step(batch)
        return BATCH_SIZE * NUM_TIMED_STEPS / (time.perf_counter() - start_s)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
