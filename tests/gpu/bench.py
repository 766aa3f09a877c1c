"""Data, specs and steps that the sections share; steps are those of the service's trainer."""

import gc
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from support.spec_contents import write_stripes

from data_pipeline.beton import MODE_JPEG
from data_pipeline.encode import encoded
from data_pipeline.native import library_path
from data_pipeline.writer import BetonWriter
from service.distillation.fused.native import library
from service.models.build import build_model
from service.spec.job import JobSpec
from service.spec.loading import parse_spec
from service.training.distributed import World, prepare_process
from service.training.profiling.peak import synchronize

NUM_CPUS = len(os.sched_getaffinity(0))
# Student and teacher.
PAIRS = {
    "R18": ("resnet18", None),
    "R34 -> R18": ("resnet18", "resnet34"),
    "R50 -> R18": ("resnet18", "resnet50"),
}
SMALL_PAIRS = {
    "R18": ("cifar:resnet8", None),
    "R34 -> R18": ("cifar:resnet8", "cifar:resnet14"),
    "R50 -> R18": ("cifar:resnet8", "cifar:resnet20"),
}
PHOTO_SIZE, PHOTO_QUALITY = (500, 375), 90


class Bench:
    """What the sections measure on; ``is_small``: with few and small images."""

    def __init__(self, folder: Path, device: torch.device, *, is_small: bool):
        self.folder, self.device, self.is_small = folder, device, is_small
        self.num_classes = 10 if is_small else 1000
        self.size = 32 if is_small else 224
        self.pairs = SMALL_PAIRS if is_small else PAIRS
        self.batch_sizes = (4, 8) if is_small else (64, 128, 256)
        self._count = 0
        write_stripes(folder / "train.beton", max(self.batch_sizes), seed=1)
        write_stripes(folder / "val.beton", 64, seed=2)
        prepare_process(device)

    def spec(self, student: str, teacher: str | None = None, /, **sections: Any) -> JobSpec:
        """A spec under a new name; ``sections`` replace fields of the sections here."""
        self._count += 1
        content: dict[str, Any] = {
            "name": f"r{self._count}",
            "dataset": {
                "train": str(self.folder / "train.beton"),
                "val": str(self.folder / "val.beton"),
                "num_classes": self.num_classes,
            },
            "augmentation": {"size": self.size},
            "student": {"model": student},
            "optimizer": {"learning_rate": 1e-4},
            "schedule": {"num_epochs": 3, "milestones": []},
            "training": {"precision": "bfloat16", "compile": "off"},
            "resources": {"cpus_per_worker": NUM_CPUS},
            "checkpoints": {"storage_path": str(self.folder / "runs")},
            "evaluation": {"resize_size": self.size, "crop_size": self.size, "batch_size": 64},
        }
        if teacher is not None:
            weights = {"source": str(self._weights_of(teacher))}
            content["teacher"] = {"model": teacher, "weights": weights}
        for name, section in sections.items():
            content[name] = {**content.get(name, {}), **section}
        spec = parse_spec(content)
        spec.run_path.mkdir(parents=True)
        return spec

    @property
    def world(self) -> World:
        """One worker on the device, with all CPUs; with one of them for small networks."""
        return World(0, 1, self.device, 1 if self.is_small else NUM_CPUS)

    def _weights_of(self, model: str) -> Path:
        path = self.folder / f"{model}.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            save_file(build_model(model, self.num_classes).state_dict(), path)
        return path

    def write_photos(self, path: Path, num_images: int) -> None:
        """Images with as much detail and as many bytes per pixel as photos have."""
        generator, (width, height) = np.random.default_rng(0), PHOTO_SIZE
        photos = []
        for _ in range(16):
            coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), np.uint8))
            smooth = np.asarray(coarse.resize(PHOTO_SIZE, Image.Resampling.BICUBIC), np.float32)
            noisy = smooth + generator.normal(0, 8, smooth.shape)
            data = io.BytesIO()
            pixels = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            pixels.save(data, "JPEG", quality=PHOTO_QUALITY)
            photos.append(data.getvalue())
        with BetonWriter(path, num_images) as writer:
            for index in range(num_images):
                data = photos[index % len(photos)]
                writer.append(encoded(MODE_JPEG, width, height, data), index % self.num_classes)

    def release(self) -> None:
        """Free what a section has left on the device."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def rate(self, call: Callable[[], object], num_at_once: int) -> float:
        """``num_at_once`` times calls per second, after some that are not measured."""
        duration_s, num_warmup = (0.2, 1) if self.is_small else (2.0, 5)
        for _ in range(num_warmup):
            call()
        synchronize(self.device)
        start_s, num_calls = time.perf_counter(), 0
        while time.perf_counter() - start_s < duration_s:
            for _ in range(1 if self.is_small else 10):
                call()
                num_calls += 1
            # Otherwise the host would queue steps that are counted and not done.
            synchronize(self.device)
        return num_calls * num_at_once / (time.perf_counter() - start_s)


def build_native_libraries(root: Path) -> None:
    """Build what is not there; what cannot be built fails where it is needed."""
    try:
        print(f"native library: {library_path()}", flush=True)
        is_built = library() is not None
    except ImportError:
        is_built = False
    if not is_built:
        command = [sys.executable, "-c", "from setuptools import setup; setup()", "build_ext"]
        done = subprocess.run([*command, "--inplace", "-q"], cwd=root, check=False)
        print(f"native libraries: built, exit status {done.returncode}", flush=True)


def device_name(device: torch.device) -> str:
    """The card's name, or the number of CPUs."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{NUM_CPUS} CPUs"
