"""The strong view of samples: its pixels, what they depend on, and what both views share."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.image_makers import converted, noisy_image, write_folder
from support.loading_helpers import CROP, EVERY_AUGMENTATION
from torchvision.transforms.v2 import functional

from data_pipeline import decoders
from data_pipeline.augmentation import color, erasing, rand_augment
from data_pipeline.augmentation.samples import Augmentations, ColorJitterParams
from data_pipeline.batches import Crop
from data_pipeline.beton import open_beton
from data_pipeline.compiled import counter_rng
from data_pipeline.compiled.counter_rng import STRONG_VIEW, WEAK_VIEW
from data_pipeline.encode import Encoding
from data_pipeline.loader import ImageLoader
from data_pipeline.order import rank_slice, train_batches

SEED, EPOCH = 5, 3
PLAIN = Augmentations()
WEAK = Augmentations(color_jitter=ColorJitterParams(0.2, 0.2, 0.2))
FLIPPED_BOXES = CROP._replace(size=24)
WINDOWS = Crop(decoders.PAD_AND_CROP, 20, flip_probability=0.5, padding=3)


def load(file, index_batches, crop=CROP, *, threads=2, weak=None, strong=PLAIN):
    with ImageLoader(file, seed=SEED, num_threads=threads) as loader:
        batches = loader.batches(index_batches, crop, EPOCH, augmentations=weak, strong=strong)
        return list(batches)


def strong_images(file, index_batches, crop=CROP, **options):
    return torch.cat([b.strong_images for b in load(file, index_batches, crop, **options)])


def strong_key(index):
    return np.uint64(counter_rng.sample_key(SEED, EPOCH, index, STRONG_VIEW))


def stored_bytes(file, index):
    start = int(file.samples["image"]["data_ptr"][index])
    return file.path.read_bytes()[start : start + int(file.data_sizes[index])]


@pytest.fixture
def square_file(tmp_path, request):
    """Thirty images of random pixels, 20 x 20."""
    for index in range(30):
        folder = tmp_path / "squares" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        noisy_image(20, 20, seed=index).save(folder / f"{index}.png")
    path = tmp_path / "squares.beton"
    converted(tmp_path / "squares", path, Encoding(request.param, quality=95))
    return open_beton(path)


def decoded(file, index):
    """An image of ``square_file`` or ``jpeg_file`` by Pillow, [H, W, 3]."""
    data = stored_bytes(file, index)
    if len(data) == 20 * 20 * 3:
        return np.frombuffer(data, np.uint8).reshape(20, 20, 3)
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("square_file", ["raw", "jpeg"], indirect=True)
def test_windows_of_the_strong_view_are_cut_by_numpy_with_its_own_numbers(square_file):
    found = strong_images(square_file, [np.arange(30)], WINDOWS).numpy()
    for index in range(30):
        key = strong_key(index)
        top, left = (int(counter_rng.uniform(key, counter) * 7) for counter in range(2))
        padded = np.pad(decoded(square_file, index), ((3, 3), (3, 3), (0, 0)))
        expected = padded[top : top + 20, left : left + 20]
        if counter_rng.uniform(key, decoders.FLIP_COUNTER) < 0.5:
            expected = expected[:, ::-1]
        assert np.array_equal(found[index], expected)


def test_boxes_of_the_strong_view_are_resized_by_torchvision_with_its_own_numbers(jpeg_file):
    found = strong_images(jpeg_file, [np.arange(12)], FLIPPED_BOXES).numpy().astype(int)
    for index in range(12):
        key, image = strong_key(index), Image.fromarray(decoded(jpeg_file, index))
        scale, ratio = np.array(CROP.scale), np.array(CROP.ratio)
        box = decoders.random_box(image.height, image.width, scale, ratio, key)
        expected = functional.resized_crop(image, *box, [24, 24], antialias=True)
        if counter_rng.uniform(key, decoders.FLIP_COUNTER) < 0.5:
            expected = functional.horizontal_flip(expected)
        difference = np.abs(found[index] - np.asarray(expected).astype(int))
        assert difference.max() <= 2
        assert difference.mean() < 0.5


def one_view(file, index, key, crop):
    """Pixels of a sample whose bytes are decoded for one view only."""
    out = np.empty((crop.size, crop.size, 3), np.uint8)
    stored, row = (
        np.frombuffer(stored_bytes(file, index), np.uint8),
        file.storage(np.array([index])),
    )
    status = decoders.decode_sample(stored.copy(), row[0], crop.kind, crop.parameters(), key, out)
    assert status == decoders.DECODED
    return out


@pytest.mark.parametrize("crop", [FLIPPED_BOXES, CROP._replace(size=70, scale=(0.05, 0.2))])
def test_decoding_once_gives_the_pixels_of_decoding_each_view_by_itself(tmp_path, crop):
    for index in range(40):
        folder = tmp_path / "images" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        image = noisy_image(30 + 7 * index, 150 - 3 * index, seed=index)
        image.save(folder / f"{index}.jpg", quality=90, subsampling=index % 3)
    converted(tmp_path / "images", tmp_path / "noise.beton")
    file = open_beton(tmp_path / "noise.beton")
    (batch,) = load(file, [np.arange(40)], crop)
    for view, images in ((WEAK_VIEW, batch.images), (STRONG_VIEW, batch.strong_images)):
        for index in range(40):
            key = np.uint64(counter_rng.sample_key(SEED, EPOCH, index, view))
            assert np.array_equal(images[index].numpy(), one_view(file, index, key, crop))


def test_strong_view_is_augmented_with_its_own_numbers(jpeg_file):
    index, scratch = 4, np.empty((12, 12, 3), np.uint8)
    plan = EVERY_AUGMENTATION._replace(erasing=EVERY_AUGMENTATION.erasing._replace(probability=1.0))
    expected = strong_images(jpeg_file, [np.array([index])])[0].numpy()
    first, second, third = (
        np.uint64(counter_rng.stream_key(strong_key(index), stream)) for stream in (1, 2, 3)
    )
    black = np.zeros(3, np.uint8)
    rand_augment.rand_augment(expected, 2, 9, black, first, scratch)
    color.color_jitter(expected, np.array(plan.color_jitter), second)
    scale, ratio = np.array(plan.erasing.scale), np.array(plan.erasing.ratio)
    erasing.erase(expected, 1.0, scale, ratio, erasing.FILL_NOISE, black, third)
    (found,) = load(jpeg_file, [np.array([index])], weak=WEAK, strong=plan)
    assert np.array_equal(found.strong_images[0].numpy(), expected)


@pytest.mark.parametrize("square_file", ["raw"], indirect=True)
@pytest.mark.parametrize("crop", [CROP, WINDOWS])
def test_first_view_does_not_depend_on_whether_there_is_a_second(square_file, crop):
    indices = np.split(np.arange(30), 5)
    alone = load(square_file, indices, crop, weak=EVERY_AUGMENTATION, strong=None)
    both = load(square_file, indices, crop, weak=EVERY_AUGMENTATION, strong=EVERY_AUGMENTATION)
    for one, two in zip(alone, both, strict=True):
        assert one.strong_images is None
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.labels, two.labels)
        differing = (two.images != two.strong_images).flatten(1).any(dim=1)
        assert differing.float().mean() > 0.9


@pytest.mark.parametrize(("world_size", "threads", "start"), [(2, 3, 0), (4, 1, 1), (1, 2, 2)])
def test_strong_view_does_not_depend_on_workers_threads_and_start(
    jpeg_file, world_size, threads, start
):
    def epoch(world_size, threads, start):
        per_rank = []
        for rank in range(world_size):
            local = rank_slice(4, 1, rank, world_size)
            indices = train_batches(12, 4, seed=SEED, epoch=EPOCH, local=local, start=start)
            per_rank.append(load(jpeg_file, indices, threads=threads, strong=EVERY_AUGMENTATION))
        return [
            torch.cat([batch.strong_images for batch in step])
            for step in zip(*per_rank, strict=True)
        ]

    reference, found = epoch(1, 1, 0), epoch(world_size, threads, start)
    assert len(found) == 3 - start
    assert all(map(torch.equal, found, reference[start:]))


def num_bytes_read():
    """Bytes that this process has asked the kernel to read, cached or not."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def test_both_views_come_from_bytes_that_are_read_once(tmp_path):
    # Many bytes, next to which the reads of the test itself do not count.
    write_folder(tmp_path / "images", num_per_class=40)
    converted(tmp_path / "images", tmp_path / "many.beton", Encoding("raw"))
    file = open_beton(tmp_path / "many.beton")
    indices = np.split(np.arange(file.num_samples), 10)
    load(file, indices, threads=1)
    before = num_bytes_read()
    batches = load(file, indices, threads=1)
    num_read = num_bytes_read() - before
    assert len(batches) == 10
    expected = int(file.data_sizes.sum())
    assert expected > 500_000
    assert expected <= num_read < 1.02 * expected
