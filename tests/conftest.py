"""Real things for the tests: small .beton files and specs that use them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from staging_helpers import instrument

from data_pipeline.encode import encoded
from data_pipeline.staging import Cache
from data_pipeline.writer import BetonWriter
from service.models.build import build_model

NUM_CLASSES = 4
SIZE = 16


def write_stripes(path: Path, num_images: int, seed: int) -> None:
    """Images whose class shows: bright stripes at the class's place, in noise."""
    generator = np.random.default_rng(seed)
    with BetonWriter(path, num_images) as writer:
        for index in range(num_images):
            label = index % NUM_CLASSES
            pixels = generator.integers(0, 130, (SIZE, SIZE, 3))
            pixels[4 * label : 4 * label + 4] += 60
            data = pixels.astype(np.uint8).tobytes()
            writer.append(encoded(1, SIZE, SIZE, data), label)


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """train.beton with 256 images and val.beton with 101, which no worker count divides."""
    folder = tmp_path_factory.mktemp("data")
    write_stripes(folder / "train.beton", 256, seed=1)
    write_stripes(folder / "val.beton", 101, seed=2)
    return folder


@pytest.fixture
def make_content(data_folder, tmp_path):
    """A function that makes a spec's JSON content; sections given replace the defaults' fields."""

    def make(**sections):
        content = {
            "name": "run",
            "dataset": {
                "train": str(data_folder / "train.beton"),
                "val": str(data_folder / "val.beton"),
                "num_classes": NUM_CLASSES,
            },
            "augmentation": {"crop": "pad_and_crop", "size": SIZE, "padding": 1},
            "student": {"model": "cifar:tiny_cnn"},
            "optimizer": {"learning_rate": 0.05},
            "schedule": {"num_epochs": 2, "milestones": [1]},
            "training": {"global_batch_size": 64, "micro_batch_size": 16},
            "resources": {"num_workers": 2, "cpus_per_worker": 1, "max_failures": 0},
            "checkpoints": {"storage_path": str(tmp_path / "runs")},
            "evaluation": {"resize_size": SIZE, "crop_size": SIZE, "batch_size": 32},
            "tracking": {"log_every_steps": 2},
        }
        for name, section in sections.items():
            merges = isinstance(section, dict) and isinstance(content.get(name), dict)
            content[name] = {**content[name], **section} if merges else section
        return content

    return make


@pytest.fixture
def write_spec(make_content, tmp_path):
    """A function that writes such a spec to a file and returns its path."""

    def write(**sections):
        path = tmp_path / f"{sections.get('name', 'run')}.json"
        path.write_text(json.dumps(make_content(**sections)))
        return path

    return write


@pytest.fixture
def share(tmp_path):
    """A folder that stands for a shared mount."""
    return tmp_path / "share"


@pytest.fixture
def cache(tmp_path):
    """A cache of datasets on the node's own disk."""
    return Cache(tmp_path / "cache")


@pytest.fixture
def log_path(tmp_path, monkeypatch):
    """Where the bytes of each fetch are noted."""
    path = tmp_path / "fetched"
    instrument(monkeypatch.setattr, path)
    return path


@pytest.fixture
def teacher(tmp_path):
    """A teacher section with weights that someone trained for another seed of the same data."""
    torch.manual_seed(9)
    save_file(build_model("cifar:resnet8", 4).state_dict(), tmp_path / "teacher.safetensors")
    return {"model": "cifar:resnet8", "weights": {"source": str(tmp_path / "teacher.safetensors")}}
