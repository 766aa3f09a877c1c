"""Batches: crops, pixels that depend on the sample alone, and resources."""

import threading
import time

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from support.image_makers import converted, smooth_image
from support.loading_helpers import CROP, EVERY_AUGMENTATION, epoch_batches
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional

from data_pipeline import decoders
from data_pipeline.batches import Crop, center_crop
from data_pipeline.beton import open_beton
from data_pipeline.compiled import counter_rng
from data_pipeline.encode import Encoding
from data_pipeline.loader import ImageLoader
from data_pipeline.order import train_batches


def test_center_crop_agrees_with_antialiased_resizing(tmp_path):
    image = smooth_image(90, 60, seed=7)
    path = tmp_path / "one"
    (path / "a").mkdir(parents=True)
    (path / "a" / "0.png").write_bytes(b"")
    image.save(path / "a" / "0.png")
    converted(path, tmp_path / "one.beton", Encoding("raw"))
    file = open_beton(tmp_path / "one.beton")
    with ImageLoader(file, seed=0, num_threads=1) as loader:
        found = (
            next(loader.batches([np.array([0])], center_crop(32, 28))).images[0].numpy().astype(int)
        )
    resized = functional.resize(image, 32, antialias=True)
    expected = np.asarray(functional.center_crop(resized, 28)).astype(int)
    assert np.abs(found - expected).max() <= 2
    assert np.abs(found - expected).mean() < 0.5


@pytest.fixture
def coordinates_file(tmp_path):
    """Raw images whose pixels encode their position: red is the row, green the column."""
    rows, columns = np.mgrid[0:20, 0:20]
    pixels = np.stack([rows + 1, columns + 1, np.full((20, 20), 200)], axis=2).astype(np.uint8)
    (tmp_path / "images" / "a").mkdir(parents=True)
    for index in range(64):
        Image.fromarray(pixels).save(tmp_path / "images" / "a" / f"{index}.png")
    converted(tmp_path / "images", tmp_path / "c.beton", Encoding("raw"))
    return open_beton(tmp_path / "c.beton")


def test_pad_and_crop_is_a_window_of_the_padded_image(coordinates_file):
    crop = Crop(decoders.PAD_AND_CROP, 20, flip_probability=0.5, padding=3)
    original = np.mgrid[0:20, 0:20].transpose(1, 2, 0) + 1
    padded = np.zeros((26, 26, 2), int)
    padded[3:23, 3:23] = original
    windows = {
        (padded[top : top + 20, left : left + 20].tobytes()): (top, left)
        for top in range(7)
        for left in range(7)
    }
    seen, flipped = set(), 0
    with ImageLoader(coordinates_file, seed=5, num_threads=2) as loader:
        for epoch in range(4):
            for image in next(loader.batches([np.arange(64)], crop, epoch)).images.numpy():
                positions = image[:, :, :2].astype(int)
                is_flipped = positions.tobytes() not in windows
                flipped += is_flipped
                seen.add(
                    windows[(positions[:, ::-1] if is_flipped else positions).copy().tobytes()]
                )
    # 256 samples: all but a few of the 49 windows, and about half of the images mirrored.
    assert len(seen) > 42
    assert 96 < flipped < 160


def test_random_boxes_follow_torchvision():
    areas, aspects = [], []
    for index in range(4000):
        key = np.uint64(counter_rng.sample_key(3, 1, index))
        top, left, height, width = decoders.random_box(
            200, 300, np.array([0.08, 1.0]), np.array([3 / 4, 4 / 3]), key
        )
        assert 0 <= top <= 200 - height
        assert 0 <= left <= 300 - width
        areas.append(height * width / 60000)
        aspects.append(width / height)
    assert 0.07 < min(areas) < 0.1
    # The image is 3:2 and a box at most 4:3, so none covers more than 8/9 of it.
    assert 0.8 < max(areas) <= 8 / 9 + 0.01
    assert min(aspects) > 0.73
    assert max(aspects) < 1.37
    # torchvision's RandomResizedCrop is the reference for the mean area.
    torch.manual_seed(0)
    image = torch.empty(3, 200, 300)
    boxes = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    reference = np.mean([box[2] * box[3] / 60000 for box in boxes])
    assert np.mean(areas) == pytest.approx(reference, abs=0.02)


def test_uniform_numbers_are_uniform():
    keys = [np.uint64(counter_rng.sample_key(1, 2, index)) for index in range(20000)]
    numbers = np.array([counter_rng.uniform(key, i % 7) for i, key in enumerate(keys)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    # Chi-squared with 19 degrees of freedom: 43.8 is its 0.999 quantile.
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8


@pytest.mark.parametrize("crop", ["box", "pad"])
def test_pixels_depend_on_seed_epoch_and_sample_alone(coordinates_file, crop):
    kinds = {
        "box": Crop(decoders.RANDOM_RESIZED_CROP, 12, (0.08, 1.0), (0.75, 1.33), 0.5),
        "pad": Crop(decoders.PAD_AND_CROP, 20, flip_probability=0.5, padding=4),
    }

    def images(seed, epoch, num_threads, batch_size):
        with ImageLoader(coordinates_file, seed=seed, num_threads=num_threads) as loader:
            batches = np.split(np.arange(64), 64 // batch_size)
            return torch.cat(
                [batch.images for batch in loader.batches(batches, kinds[crop], epoch)]
            )

    reference = images(1, 2, 1, 64)
    assert torch.equal(reference, images(1, 2, 2, 64))
    assert torch.equal(reference, images(1, 2, 3, 8))
    assert not torch.equal(reference, images(1, 3, 1, 64))
    assert not torch.equal(reference, images(2, 2, 1, 64))


@pytest.mark.parametrize(("world_size", "num_threads", "start"), [(2, 3, 0), (4, 1, 1), (1, 2, 2)])
def test_batches_do_not_depend_on_world_size_threads_and_start(
    jpeg_file, world_size, num_threads, start
):
    reference = epoch_batches(jpeg_file, 1, 1, 0)
    found = epoch_batches(jpeg_file, world_size, num_threads, start)
    assert len(found) == 3 - start
    for ours, expected in zip(found, reference[start:], strict=True):
        assert torch.equal(ours[0], expected[0])
        assert torch.equal(ours[1], expected[1])
    assert not torch.equal(reference[0][0], epoch_batches(jpeg_file, 1, 1, 0, epoch=4)[0][0])


def test_memory_does_not_grow_over_a_hundred_epochs(jpeg_file):
    with ImageLoader(jpeg_file, seed=0, num_threads=2) as loader:

        def run(num_epochs):
            for epoch in range(num_epochs):
                indices = train_batches(12, 4, seed=0, epoch=epoch)
                for batch in loader.batches(indices, CROP, epoch, augmentations=EVERY_AUGMENTATION):
                    assert len(batch.images) == 4

        run(20)
        before = psutil.Process().memory_info().rss
        run(100)
        assert psutil.Process().memory_info().rss - before < 20e6


def test_closing_early_leaks_no_thread_and_batches_stay_valid(coordinates_file):
    before = threading.active_count()
    crop = Crop(decoders.PAD_AND_CROP, 20, padding=2)
    with ImageLoader(coordinates_file, seed=0, num_threads=2) as loader:
        batches = loader.batches([np.arange(8)] * 20, crop)
        first = next(batches)
        kept = first.images.clone()
        for _ in range(5):
            next(batches)
        assert torch.equal(first.images, kept)
        batches.close()
    deadline_s = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert threading.active_count() == before
