"""The strong view of a worker's batches: what the spec asks for, and nothing else changes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.training_runs import CPU

from data_pipeline import decoders
from data_pipeline.augmentation import erasing
from data_pipeline.beton import open_beton
from data_pipeline.compiled import counter_rng
from service.spec.loading import parse_spec
from service.training.data import WorkerData
from service.training.device_batches import prefetch_to_device
from service.training.distributed import World
from service.training.factory import strong_augmentations

ERASED = {"rand_augment": None, "erasing": {"probability": 1.0}}
EPOCH = 1
BOTH = {"ce": {"views": "both"}}


def worker_batches(spec):
    data = WorkerData(spec, World(0, 1, CPU, 1), print)
    batches = list(prefetch_to_device(data.train_batches(EPOCH, 0), CPU))
    data.close()
    return batches


@pytest.fixture
def stored_images(data_folder):
    """The images of train.beton, [N, 16, 16, 3]."""
    file = open_beton(Path(data_folder) / "train.beton")
    rows = file.storage(np.arange(file.num_samples))
    content = np.fromfile(file.path, np.uint8)
    return [content[start : start + size].reshape(16, 16, 3) for start, size in rows[:, 3:5]]


def test_strong_view_is_cropped_as_the_weak_one_and_augmented_as_the_spec_says(
    make_content, stored_images
):
    content = make_content(augmentation={"strong": ERASED}, losses=BOTH, seed=9)
    mean_color = np.array([124, 116, 104], np.uint8)
    scale, ratio = np.array([0.02, 0.33]), np.array([0.3, 3.3])
    for batch in worker_batches(parse_spec(content)):
        for index, image in zip(batch.indices, batch.strong_images.numpy(), strict=True):
            key = np.uint64(counter_rng.sample_key(9, EPOCH, index, counter_rng.STRONG_VIEW))
            top, left = (int(3 * counter_rng.uniform(key, counter)) for counter in range(2))
            padded = np.pad(stored_images[index], ((1, 1), (1, 1), (0, 0)))
            expected = padded[top : top + 16, left : left + 16].copy()
            if counter_rng.uniform(key, decoders.FLIP_COUNTER) < 0.5:
                expected = expected[:, ::-1].copy()
            stream = np.uint64(counter_rng.stream_key(key, erasing.ERASING_STREAM))
            erasing.erase(expected, 1.0, scale, ratio, erasing.FILL_COLOR, mean_color, stream)
            assert np.array_equal(image, expected)


def test_weak_view_and_order_are_those_of_a_spec_without_a_strong_view(make_content):
    augmentation = {"color_jitter": {}, "erasing": {}}
    alone = worker_batches(parse_spec(make_content(augmentation=augmentation)))
    augmentation["strong"] = {}
    both = worker_batches(parse_spec(make_content(augmentation=augmentation, losses=BOTH)))
    assert len(alone) == len(both) == 4
    for one, two in zip(alone, both, strict=True):
        assert one.strong_images is None
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.labels, two.labels)
        assert one.indices.tolist() == two.indices.tolist()


def test_strong_view_has_rand_augment_unless_the_spec_says_otherwise(make_content):
    augmentation = {"strong": {}, "color_jitter": {}}
    spec = parse_spec(make_content(augmentation=augmentation, losses=BOTH))
    found = strong_augmentations(spec)
    assert found.rand_augment[:2] == (2, 9)
    assert found.color_jitter is None
    assert found.erasing is None
    assert strong_augmentations(parse_spec(make_content(augmentation={"color_jitter": {}}))) is None
