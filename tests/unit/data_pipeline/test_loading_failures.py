"""Batches of damaged samples, unreadable files and failing threads."""

import os
import time

import numpy as np
import pytest
import torch
from support.loading_helpers import CROP, EVERY_AUGMENTATION, epoch_batches

from data_pipeline import loader as loader_module
from data_pipeline.augmentation.samples import Augmentations
from data_pipeline.batches import UndecodableSampleError, center_crop
from data_pipeline.loader import ImageLoader
from data_pipeline.order import evaluation_batches, train_batches


def damage(file, *indices):
    """Zero the stored bytes of some samples."""
    with file.path.open("r+b") as stream:
        for index in indices:
            stream.seek(int(file.samples["image"]["data_ptr"][index]))
            stream.write(bytes(int(file.data_sizes[index])))


def test_zeroed_jpeg_is_an_error_that_names_the_sample(jpeg_file):
    damage(jpeg_file, 5)
    indices = evaluation_batches(12, 4, rank=0, world_size=1)
    with (
        ImageLoader(jpeg_file, seed=0, num_threads=2) as loader,
        pytest.raises(UndecodableSampleError, match=r"sample 5 .*max_undecodable"),
    ):
        list(loader.batches(indices, center_crop(24, 24)))


def test_evaluation_omits_up_to_max_undecodable_samples(jpeg_file):
    damage(jpeg_file, 5, 9)
    indices = evaluation_batches(12, 4, rank=0, world_size=1)
    with ImageLoader(jpeg_file, seed=0, num_threads=2, max_undecodable=2) as loader:
        batches = list(loader.batches(indices, center_crop(24, 24)))
        assert loader.undecodable == {5, 9}
    seen = np.concatenate([batch.indices for batch in batches])
    assert seen.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 10, 11]
    assert torch.cat([b.labels for b in batches]).tolist() == jpeg_file.labels[seen].tolist()
    assert sum(len(batch.images) for batch in batches) == 10


def test_evaluation_omits_both_views_of_an_undecodable_sample(jpeg_file):
    crop = center_crop(24, 24)
    damage(jpeg_file, 1)
    with ImageLoader(jpeg_file, seed=0, num_threads=2, max_undecodable=1) as loader:
        (batch,) = loader.batches([np.arange(4)], crop, strong=Augmentations())
    assert batch.indices.tolist() == [0, 2, 3]
    # Without random numbers, both views are the same.
    assert torch.equal(batch.strong_images, batch.images)


def test_training_replaces_up_to_max_undecodable_samples(jpeg_file):
    intact = epoch_batches(jpeg_file, 1, 1, 0)
    order = np.concatenate(list(train_batches(12, 4, seed=5, epoch=3)))
    damage(jpeg_file, 5)

    def take(num_threads):
        indices = train_batches(12, 4, seed=5, epoch=3)
        with ImageLoader(jpeg_file, seed=5, num_threads=num_threads, max_undecodable=1) as loader:
            return list(loader.batches(indices, CROP, 3, augmentations=EVERY_AUGMENTATION))

    batches = take(1)
    indices = np.concatenate([batch.indices for batch in batches])
    changed = np.flatnonzero(indices != order)
    assert order[changed].tolist() == [5]
    assert indices[changed[0]] != 5
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    assert labels.tolist() == jpeg_file.labels[indices].tolist()
    images, before = (torch.cat([b[0] for b in part]) for part in (batches, intact))
    kept = np.flatnonzero(indices == order)
    assert torch.equal(images[kept], before[kept])
    # The substitute has the same pixels as at its own position of the epoch.
    position = int(np.flatnonzero(order == indices[changed[0]])[0])
    assert torch.equal(images[changed[0]], before[position])
    assert torch.equal(images, torch.cat([batch.images for batch in take(3)]))


@pytest.mark.parametrize("threads", [1, 3])
def test_both_views_of_an_undecodable_sample_are_those_of_one_substitute(jpeg_file, threads):
    def take():
        indices = train_batches(12, 4, seed=5, epoch=3)
        with ImageLoader(jpeg_file, seed=5, num_threads=threads, max_undecodable=1) as loader:
            batches = list(
                loader.batches(indices, CROP, 3, augmentations=None, strong=EVERY_AUGMENTATION)
            )
        names = ("images", "strong_images", "labels")
        columns = [torch.cat([getattr(batch, name) for batch in batches]) for name in names]
        return np.concatenate([batch.indices for batch in batches]), *columns

    order, *intact = take()
    damage(jpeg_file, 5)
    indices, *found = take()
    (place,) = np.flatnonzero(indices != order)
    assert order[place] == 5
    # The same sample as in batches of one view.
    with ImageLoader(jpeg_file, seed=5, num_threads=1, max_undecodable=1) as loader:
        batches = loader.batches(train_batches(12, 4, seed=5, epoch=3), CROP, 3)
        assert np.concatenate([batch.indices for batch in batches]).tolist() == indices.tolist()
    # Both views of it are those at its own position of the epoch, and so is its label.
    own_places = [int(np.flatnonzero(order == index)[0]) for index in indices]
    for ours, expected in zip(found, intact, strict=True):
        assert torch.equal(ours, expected[own_places])


def test_more_than_max_undecodable_samples_are_an_error(jpeg_file):
    damage(jpeg_file, 2, 7)
    indices = evaluation_batches(12, 3, rank=0, world_size=1)
    with (
        ImageLoader(jpeg_file, seed=0, num_threads=1, max_undecodable=1) as loader,
        pytest.raises(UndecodableSampleError, match="sample 2, 7 "),
    ):
        list(loader.batches(indices, center_crop(24, 24)))


def test_file_truncated_while_it_is_open_is_an_error(jpeg_file):
    indices = evaluation_batches(12, 4, rank=0, world_size=1)
    with (
        ImageLoader(jpeg_file, seed=0, num_threads=2, max_undecodable=12) as loader,
        jpeg_file.path.open("r+b") as stream,
    ):
        stream.truncate(int(jpeg_file.samples["image"]["data_ptr"][6]) + 10)
        with pytest.raises(OSError, match=r"jpeg\.beton: sample 6 cannot be read.*truncated"):
            list(loader.batches(indices, center_crop(24, 24)))


def test_file_that_cannot_be_read_is_reopened_and_read_again(jpeg_file, monkeypatch):
    monkeypatch.setattr(loader_module, "RETRY_PAUSES_S", (0.0, 0.0))

    def take(*, is_broken, strong):
        indices = iter(np.arange(12).reshape(3, 4))
        with ImageLoader(jpeg_file, seed=5, num_threads=2) as loader:
            if is_broken:
                # Reading then fails as with a stale file handle.
                unreadable = os.open(jpeg_file.path, os.O_WRONLY)
                os.dup2(unreadable, loader._descriptor)
                os.close(unreadable)
            batches = loader.batches(
                indices, CROP, 3, augmentations=EVERY_AUGMENTATION, strong=strong
            )
            return list(batches)

    for strong in (None, EVERY_AUGMENTATION):
        after_failures, expected = (
            take(is_broken=broken, strong=strong) for broken in (True, False)
        )
        for ours, theirs in zip(after_failures, expected, strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert strong is None or torch.equal(ours.strong_images, theirs.strong_images)


def test_file_that_stays_unreadable_is_an_error(jpeg_file, monkeypatch):
    monkeypatch.setattr(loader_module, "RETRY_PAUSES_S", (0.0, 0.0))
    with ImageLoader(jpeg_file, seed=0, num_threads=2, max_undecodable=12) as loader:
        directory = os.open(jpeg_file.path.parent, os.O_RDONLY)
        os.dup2(directory, loader._descriptor)
        os.close(directory)
        monkeypatch.setattr(ImageLoader, "_reopen", lambda loader: None)
        with pytest.raises(OSError, match="sample 0 cannot be read"):
            list(loader.batches(iter(np.arange(12).reshape(3, 4)), center_crop(24, 24)))


def test_error_in_a_decoding_thread_is_raised_to_the_consumer(jpeg_file, monkeypatch):
    def fail(*_):
        raise RuntimeError("thread failed")

    monkeypatch.setattr(loader_module.decoders, "decode_samples", fail)
    start_s = time.monotonic()
    with (
        ImageLoader(jpeg_file, seed=0, num_threads=2) as loader,
        pytest.raises(RuntimeError, match="thread failed"),
    ):
        next(loader.batches([np.arange(4)], center_crop(24, 24)))
    assert time.monotonic() - start_s < 5
