"""What an export is checked against, in closed form; and that a failed check leaves nothing."""

import os
import signal

import numpy as np
import pytest
import torch
from support.exported_runs import write_run
from torch import nn

from jobs.export import main
from service.export import job
from service.export.comparison import BATCH_SIZES, TOLERANCE, compare, network_input
from service.export.network import NormalizedNetwork
from service.spec.data_sections import Normalization
from service.spec.errors import EXIT_STOPPED

NORMALIZATION = Normalization(mean=(0.5, 0.25, 0.125), std=(0.5, 0.25, 2.0))


def test_normalization_inside_is_x_minus_mean_over_std():
    network = NormalizedNetwork(nn.Identity(), NORMALIZATION)
    images = torch.full((2, 3, 4, 4), 0.75)
    channels = torch.tensor([0.5, 2.0, 0.3125]).view(1, 3, 1, 1)
    assert torch.equal(network(images), channels.expand(2, 3, 4, 4))


def test_input_of_a_file_with_and_without_its_own_normalization():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(2, 4, 4, 3)
    for normalization, expected in ((None, [0, 0.2, 1]), (NORMALIZATION, [-1, -0.2, 0.4375])):
        images = network_input(pixels, normalization)
        assert (images.shape, images.dtype) == ((2, 3, 4, 4), np.float32)
        np.testing.assert_allclose(images[1, :, 2, 3], expected, rtol=1e-5)


def compared(change):
    """The comparison of logits 2 * x with a function that changes those of a batch."""
    images = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    images[3] *= 1000
    sizes = []

    def classify(batch):
        sizes.append(len(batch))
        return change(2 * batch)

    return compare(
        classify, [(images[:12], 2 * images[:12]), (images[12:], 2 * images[12:])]
    ), sizes


def test_all_batch_sizes_are_compared():
    comparison, sizes = compared(lambda logits: logits)
    assert comparison.is_equal
    assert (comparison.num_images, comparison.max_difference) == (20, 0.0)
    assert set(BATCH_SIZES) <= set(sizes)


def test_a_difference_in_batches_of_one_size_is_found():
    def change(logits):
        return logits * (1 + 3 * TOLERANCE) if len(logits) == 7 else logits

    comparison, _ = compared(change)
    assert not comparison.is_equal
    assert comparison.num_other_top1 == 0
    assert comparison.max_share == pytest.approx(3 * TOLERANCE, rel=0.05)
    largest = float(np.abs(np.random.default_rng(0).normal(size=(20, 5))[3]).max()) * 2000
    assert comparison.max_difference == pytest.approx(3 * TOLERANCE * largest, rel=0.05)


def test_a_difference_is_measured_by_the_logits_of_its_own_image():
    """Small beside the largest logit of all images, large beside those of this one."""
    answers = np.array([[1000, 1], [1, 0.5]], np.float32)
    comparison = compare(lambda logits: logits, [(answers + np.float32([[0], [0.01]]), answers)])
    assert comparison.max_difference == pytest.approx(0.01, rel=1e-3)
    assert comparison.max_share == pytest.approx(0.01, rel=1e-3)
    assert not comparison.is_equal


def test_another_top1_is_found_whatever_the_tolerance():
    def swap_two_best(logits):
        order = np.argsort(logits[:1], axis=1)[0]
        swapped = logits.copy()
        swapped[0, order[-1]], swapped[0, order[-2]] = logits[0, order[-2]], logits[0, order[-1]]
        return swapped if len(logits) == 2 else logits

    comparison, _ = compared(swap_two_best)
    # Of each pair, the first one.
    assert comparison.num_other_top1 == 10
    assert not comparison.is_equal


def test_logits_that_are_not_finite_are_not_equal():
    comparison, _ = compared(lambda logits: np.full_like(logits, np.nan))
    assert not comparison.is_equal


def test_a_file_that_answers_otherwise_is_not_written(tmp_path, monkeypatch, capsys):
    run_path, _ = write_run(tmp_path)
    (tmp_path / "out").mkdir()
    wrong = Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    right = job.eager_logits
    monkeypatch.setattr(
        job, "eager_logits", lambda network, _, pixels: right(network, wrong, pixels)
    )
    path = tmp_path / "out" / "student.pt2"
    assert main([str(run_path), "--format", "pt2", "--out", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--format: is pt2, and the file does not answer as the network does on ")
    assert "; give another format" in line
    assert "logits differ by up to" in line
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(number, tmp_path, monkeypatch, capsys):
    run_path, _ = write_run(tmp_path)
    (tmp_path / "out").mkdir()

    def interrupt(*_):
        os.kill(os.getpid(), number)
        raise AssertionError("the signal interrupts it")

    monkeypatch.setattr(job, "compare", interrupt)
    path = tmp_path / "out" / "student.pt2"
    assert main([str(run_path), "--format", "pt2", "--out", str(path)]) == EXIT_STOPPED
    assert capsys.readouterr().err == f"stopped; {path} was not written\n"
    assert list((tmp_path / "out").iterdir()) == []
