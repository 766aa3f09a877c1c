"""Batches: which pixels, in whatever company, and what happens when something breaks."""

import os
import threading
import time

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from support.image_makers import converted, smooth_image, write_folder
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional

from data_pipeline import decoders
from data_pipeline import loader as loader_module
from data_pipeline.augmentation.samples import (
    Augmentations,
    ColorJitterParams,
    ErasingParams,
    RandAugmentParams,
)
from data_pipeline.beton import open_beton
from data_pipeline.compiled import counter_rng
from data_pipeline.encode import Encoding
from data_pipeline.loader import Crop, ImageLoader, UndecodableSampleError, center_crop
from data_pipeline.order import evaluation_batches, rank_slice, train_batches

BOX = Crop(decoders.RANDOM_RESIZED_CROP, 12, (0.08, 1.0), (0.75, 1.33), 0.5)
EVERYTHING = Augmentations(
    RandAugmentParams(2, 9), ColorJitterParams(0.4, 0.4, 0.4, 0.1), ErasingParams(0.5, fill="noise")
)


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
    """One raw image whose pixels name their own place: red is the row, green the column."""
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
                places = image[:, :, :2].astype(int)
                is_flipped = places.tobytes() not in windows
                flipped += is_flipped
                seen.add(windows[(places[:, ::-1] if is_flipped else places).copy().tobytes()])
    # 256 draws: all but a few of the 49 windows, and about half of the images mirrored.
    assert len(seen) > 42
    assert 96 < flipped < 160


def test_random_boxes_follow_the_recipe():
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
    # torchvision's RandomResizedCrop, drawn here as the reference for the mean area.
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


@pytest.fixture
def jpeg_file(tmp_path):
    """Twelve JPEGs of different sizes."""
    converted(write_folder(tmp_path / "images"), tmp_path / "jpeg.beton")
    return open_beton(tmp_path / "jpeg.beton")


def damage(file, *indices):
    """Zero the stored bytes of some samples."""
    with file.path.open("r+b") as stream:
        for index in indices:
            stream.seek(int(file.samples["image"]["data_ptr"][index]))
            stream.write(bytes(int(file.data_sizes[index])))


def batches_of(file, world_size, num_threads, start, *, epoch=3, augmentations=EVERYTHING):
    """All workers' batches of an epoch, side by side in each step."""
    per_rank = []
    for rank in range(world_size):
        indices = train_batches(
            file.num_samples,
            4,
            seed=5,
            epoch=epoch,
            local=rank_slice(4, 1, rank, world_size),
            start=start,
        )
        with ImageLoader(file, seed=5, num_threads=num_threads) as loader:
            per_rank.append(list(loader.batches(indices, BOX, epoch, augmentations=augmentations)))
    return [
        (torch.cat([b.images for b in parts]), torch.cat([b.labels for b in parts]))
        for parts in zip(*per_rank, strict=True)
    ]


@pytest.mark.parametrize(("world_size", "num_threads", "start"), [(2, 3, 0), (4, 1, 1), (1, 2, 2)])
def test_batches_are_the_same_for_any_world_threads_and_start(
    jpeg_file, world_size, num_threads, start
):
    reference = batches_of(jpeg_file, 1, 1, 0)
    found = batches_of(jpeg_file, world_size, num_threads, start)
    assert len(found) == 3 - start
    for ours, expected in zip(found, reference[start:], strict=True):
        assert torch.equal(ours[0], expected[0])
        assert torch.equal(ours[1], expected[1])
    assert not torch.equal(reference[0][0], batches_of(jpeg_file, 1, 1, 0, epoch=4)[0][0])


def test_zeroed_jpeg_is_an_error_that_names_the_sample(jpeg_file):
    damage(jpeg_file, 5)
    indices = evaluation_batches(12, 4, rank=0, world_size=1)
    with (
        ImageLoader(jpeg_file, seed=0, num_threads=2) as loader,
        pytest.raises(UndecodableSampleError, match=r"sample 5 .*max_undecodable"),
    ):
        list(loader.batches(indices, center_crop(24, 24)))


def test_within_the_budget_evaluation_leaves_undecodable_samples_out(jpeg_file):
    damage(jpeg_file, 5, 9)
    indices = evaluation_batches(12, 4, rank=0, world_size=1)
    with ImageLoader(jpeg_file, seed=0, num_threads=2, max_undecodable=2) as loader:
        batches = list(loader.batches(indices, center_crop(24, 24)))
        assert loader.undecodable == {5, 9}
    seen = np.concatenate([batch.indices for batch in batches])
    assert seen.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 10, 11]
    assert torch.cat([b.labels for b in batches]).tolist() == jpeg_file.labels[seen].tolist()
    assert sum(len(batch.images) for batch in batches) == 10


def test_within_the_budget_training_replaces_undecodable_samples(jpeg_file):
    whole = batches_of(jpeg_file, 1, 1, 0)
    order = np.concatenate(list(train_batches(12, 4, seed=5, epoch=3)))
    damage(jpeg_file, 5)

    def take(num_threads):
        indices = train_batches(12, 4, seed=5, epoch=3)
        with ImageLoader(jpeg_file, seed=5, num_threads=num_threads, max_undecodable=1) as loader:
            return list(loader.batches(indices, BOX, 3, augmentations=EVERYTHING))

    batches = take(1)
    indices = np.concatenate([batch.indices for batch in batches])
    changed = np.flatnonzero(indices != order)
    assert order[changed].tolist() == [5]
    assert indices[changed[0]] != 5
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    assert labels.tolist() == jpeg_file.labels[indices].tolist()
    images, before = (torch.cat([b[0] for b in part]) for part in (batches, whole))
    kept = np.flatnonzero(indices == order)
    assert torch.equal(images[kept], before[kept])
    # The substitute is a sample of its own right: its pixels are those it has elsewhere.
    place = int(np.flatnonzero(order == indices[changed[0]])[0])
    assert torch.equal(images[changed[0]], before[place])
    assert torch.equal(images, torch.cat([batch.images for batch in take(3)]))


def test_one_more_than_the_budget_is_an_error(jpeg_file):
    damage(jpeg_file, 2, 7)
    indices = evaluation_batches(12, 3, rank=0, world_size=1)
    with (
        ImageLoader(jpeg_file, seed=0, num_threads=1, max_undecodable=1) as loader,
        pytest.raises(UndecodableSampleError, match="sample 2, 7 "),
    ):
        list(loader.batches(indices, center_crop(24, 24)))


def test_file_truncated_under_the_loader_is_an_error_not_a_dead_process(jpeg_file):
    indices = evaluation_batches(12, 4, rank=0, world_size=1)
    with (
        ImageLoader(jpeg_file, seed=0, num_threads=2, max_undecodable=12) as loader,
        jpeg_file.path.open("r+b") as stream,
    ):
        stream.truncate(int(jpeg_file.samples["image"]["data_ptr"][6]) + 10)
        with pytest.raises(OSError, match=r"jpeg\.beton: sample 6 cannot be read.*truncated"):
            list(loader.batches(indices, center_crop(24, 24)))


def test_file_that_cannot_be_read_for_a_while_is_opened_and_read_again(jpeg_file, monkeypatch):
    monkeypatch.setattr(loader_module, "RETRY_PAUSES_S", (0.0, 0.0))

    def take(*, breaks):
        indices = iter(np.arange(12).reshape(3, 4))
        with ImageLoader(jpeg_file, seed=5, num_threads=2) as loader:
            if breaks:
                # Reading from it fails from now on, as from a handle that a server has forgotten.
                unreadable = os.open(jpeg_file.path, os.O_WRONLY)
                os.dup2(unreadable, loader._descriptor)
                os.close(unreadable)
            return list(loader.batches(indices, BOX, 3, augmentations=EVERYTHING))

    for ours, theirs in zip(take(breaks=True), take(breaks=False), strict=True):
        assert torch.equal(ours.images, theirs.images)


def test_file_that_stays_unreadable_is_an_error(jpeg_file, monkeypatch):
    monkeypatch.setattr(loader_module, "RETRY_PAUSES_S", (0.0, 0.0))
    with ImageLoader(jpeg_file, seed=0, num_threads=2, max_undecodable=12) as loader:
        directory = os.open(jpeg_file.path.parent, os.O_RDONLY)
        os.dup2(directory, loader._descriptor)
        os.close(directory)
        monkeypatch.setattr(ImageLoader, "_reopen", lambda loader: None)
        with pytest.raises(OSError, match="sample 0 cannot be read"):
            list(loader.batches(iter(np.arange(12).reshape(3, 4)), center_crop(24, 24)))


def test_error_in_a_decoding_thread_reaches_the_consumer(jpeg_file, monkeypatch):
    def fail(*_):
        raise RuntimeError("thread broke")

    monkeypatch.setattr(loader_module.decoders, "decode_samples", fail)
    start_s = time.monotonic()
    with (
        ImageLoader(jpeg_file, seed=0, num_threads=2) as loader,
        pytest.raises(RuntimeError, match="thread broke"),
    ):
        next(loader.batches([np.arange(4)], center_crop(24, 24)))
    assert time.monotonic() - start_s < 5


def test_a_hundred_epochs_do_not_grow_the_process(jpeg_file):
    with ImageLoader(jpeg_file, seed=0, num_threads=2) as loader:

        def run(num_epochs):
            for epoch in range(num_epochs):
                indices = train_batches(12, 4, seed=0, epoch=epoch)
                for batch in loader.batches(indices, BOX, epoch, augmentations=EVERYTHING):
                    assert len(batch.images) == 4

        run(20)
        before = psutil.Process().memory_info().rss
        run(100)
        assert psutil.Process().memory_info().rss - before < 20e6


def test_leaving_early_leaks_no_thread_and_batches_may_be_kept(coordinates_file):
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
