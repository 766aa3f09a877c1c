"""The specs in jobs/specs are valid with local paths of data and weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data_pipeline.encode import encoded
from data_pipeline.writer import BetonWriter
from service.compare.jobs import other_recipe
from service.compare.loading import parse_comparison
from service.models.build import build_model
from service.spec.loading import parse_spec
from service.sweep.loading import parse_sweep

SPECS = Path(__file__).parents[3] / "jobs" / "specs"
JOBS = sorted(
    path.name for path in SPECS.glob("*.json") if not path.name.startswith(("sweep", "compare"))
)
SWEEPS = sorted(path.name for path in SPECS.glob("sweep*.json"))
COMPARISONS = sorted(path.name for path in SPECS.glob("compare*.json"))


def write_constant_images(path, num_classes, side):
    """Write images of one color, enough for a held-out part and a batch."""
    pixels = np.full((side, side, 3), 100, np.uint8).tobytes()
    image = encoded(1, side, side, pixels)
    num_images = max(10 * num_classes, 600)
    with BetonWriter(path, num_images, page_size=1 << 20) as writer:
        for index in range(num_images):
            writer.append(image, index % num_classes)


def with_local_paths(content, folder):
    """The spec with small local files instead of the user's data."""
    size = max(content.get("augmentation", {}).get("size", 224), 28)
    num_classes = content["dataset"]["num_classes"]
    path = folder / "images.beton"
    write_constant_images(path, num_classes, size)
    content["dataset"] |= {"train": str(path), "val": str(path)}
    content["checkpoints"]["storage_path"] = str(folder / "runs")
    weights = content["teacher"]["weights"]
    if not weights["source"].startswith("torchvision:"):
        weights["source"] = str(folder / "teacher.safetensors")
        torch.manual_seed(0)
        save_file(
            build_model(content["teacher"]["model"], num_classes).state_dict(), weights["source"]
        )
    return content


@pytest.mark.parametrize("name", JOBS)
def test_ready_spec_is_valid(name, tmp_path):
    content = with_local_paths(json.loads((SPECS / name).read_text()), tmp_path)

    spec = parse_spec(content)

    assert spec.name == name.removesuffix(".json")
    assert spec.teacher.model != spec.student.model


@pytest.mark.parametrize("name", SWEEPS)
def test_ready_sweep_is_valid(name, tmp_path):
    content = json.loads((SPECS / name).read_text())
    base = json.loads((SPECS.parents[1] / content["base"]).read_text())
    content["base"] = with_local_paths(base, tmp_path)
    content["held_out"]["num_images"] = 200

    assert set(parse_sweep(content).space) == set(content["space"])


@pytest.mark.parametrize("name", COMPARISONS)
def test_ready_comparison_is_valid(name, tmp_path):
    content = json.loads((SPECS / name).read_text())
    content["base"] = with_local_paths(content["base"], tmp_path)

    compare = parse_comparison(content).compare

    assert compare.name == name.removesuffix(".json")
    # All of one recipe.
    assert not any(other_recipe(compare, variant) for variant in compare.rows())


def test_there_is_a_spec_for_each_dataset():
    datasets = ("imagenet", "cifar10-", "cifar100-", "tiny-imagenet", "fashion-mnist")

    assert all(any(name.startswith(dataset) for name in JOBS) for dataset in datasets)
    assert SWEEPS
    assert COMPARISONS
