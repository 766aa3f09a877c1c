"""Warnings about images that are trained on and evaluated."""

import time

import numpy as np
import pytest

from data_pipeline.encode import EncodedImage, encoded
from data_pipeline.writer import BetonWriter
from service.plan import format_plan, make_plan
from service.spec.data_sections import Dataset, HeldOut
from service.spec.loading import parse_job
from service.spec.overlap import overlap_warnings
from service.sweep.loading import parse_sweep
from service.sweep.plan import format_plan as format_sweep

SIDE = 16


def write(path, numbers, labels=None):
    """An image of noise for each number."""
    with BetonWriter(path, len(numbers)) as writer:
        for place, number in enumerate(numbers):
            pixels = np.random.default_rng(number).integers(0, 256, 3 * SIDE * SIDE, np.uint8)
            label = place % 4 if labels is None else labels[place]
            writer.append(encoded(1, SIDE, SIDE, pixels.tobytes()), label)
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Seven of the 40 images of val are also in train."""
    train = write(tmp_path / "train.beton", range(400))
    val = write(tmp_path / "other_name.beton", range(393, 433))
    return {"train": train, "val": val}


def test_plan_counts_images_of_val_that_are_in_train(make_content, files):
    text = format_plan(make_plan(parse_job(make_content(dataset=files))))
    assert "warning: 7 of 40 images of dataset.val are also in dataset.train" in text


def test_plan_says_nothing_of_files_that_share_no_image(make_content):
    assert "are also" not in format_plan(make_plan(parse_job(make_content())))


def test_plan_of_val_that_is_train_warns_once(make_content, files):
    content = make_content(dataset={**files, "val": files["train"]})
    warnings = [text for text in make_plan(parse_job(content)).warnings if "dataset.val" in text]
    assert [text[:13] for text in warnings if "also in" in text] == ["400 of 400 im"]
    assert not any("is the same as" in text for text in warnings)


def copies(tmp_path):
    """Each image once with label 0 and once with label 1."""
    numbers = [*range(100), *range(100)]
    return write(tmp_path / "copies.beton", numbers, [0] * 100 + [1] * 100)


def test_held_out_images_with_copies_that_are_trained_on_are_counted(tmp_path, files):
    dataset = Dataset(train=copies(tmp_path), val=files["val"], num_classes=4)
    warnings = list(overlap_warnings(dataset, HeldOut(num_images=60)))
    # 30 of each class are held out. The order within a class goes by content, which is the same
    # in both, so both hold out the same images and no copy is left.
    assert warnings == []
    warnings = list(overlap_warnings(dataset, HeldOut(num_images=61)))
    assert [text.split(" held-out")[0] for text in warnings] == ["1 of 61"]


def test_plans_count_held_out_images_that_are_trained_on(
    tmp_path, files, make_content, make_sweep_content
):
    dataset = {**files, "train": copies(tmp_path), "held_out": {"num_images": 61}}
    content = make_content(dataset=dataset)
    expected = "warning: 1 of 61 held-out images are also among the images that are trained on"
    assert expected in format_plan(make_plan(parse_job(content)))

    dataset = {**files, "train": copies(tmp_path)}
    content = make_sweep_content(base={"dataset": dataset}, held_out={"num_images": 61})
    assert expected in format_sweep(parse_sweep(content))
    content = make_sweep_content(base={"dataset": files})
    expected = "warning: 7 of 40 images of dataset.val are also in dataset.train"
    assert expected in format_sweep(parse_sweep(content))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("location", ["s3://bucket/a.beton", "missing.beton"])
def test_nothing_is_said_of_files_that_cannot_be_read(files, split, location):
    dataset = Dataset(**{**files, split: location, "num_classes": 4})
    assert list(overlap_warnings(dataset, None)) == []


def test_files_as_large_as_imagenet_are_compared_without_reading_their_images(tmp_path):
    digests = np.random.default_rng(0).integers(0, 2**63, 300_000)
    for name, chosen in (("train", digests[:290_000]), ("val", digests[-20_000:])):
        with BetonWriter(tmp_path / name, len(chosen)) as writer:
            for place, value in enumerate(chosen.tolist()):
                writer.append(EncodedImage(0, 9, 9, b"x", value, value), place % 1000)
    dataset = Dataset(train=str(tmp_path / "train"), val=str(tmp_path / "val"), num_classes=1000)
    start_s = time.process_time()
    warnings = list(overlap_warnings(dataset, HeldOut(num_images=10_000)))
    assert [text.split(" images")[0] for text in warnings] == ["10,000 of 20,000"]
    # A quarter of ImageNet in far less than half a second, on a busy machine too.
    assert time.process_time() - start_s < 1
