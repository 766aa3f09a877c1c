"""Corruptions against PIL, closed forms and a dense Gaussian; they depend on the sample alone."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm

from service.evaluate.corruptions import CORRUPTIONS, STRENGTHS, corrupted, strength_values

SIZE_PX = 64


@pytest.fixture(scope="module")
def pixels():
    """Smooth color gradients with a few hard edges, uint8 [4, 64, 64, 3]."""
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX] / SIZE_PX
    waves = [np.sin(6 * x * (n + 1)) * np.cos(4 * y + n) for n in range(3)]
    image = 128 + 90 * np.stack(waves, axis=-1)
    image[10:30, 20:25] = [250, 5, 120]
    images = np.stack([image, image[::-1], image[:, ::-1], 255 - image])
    return torch.from_numpy(images.round().astype(np.uint8))


def applied(pixels, kind, strength, seed=0):
    return corrupted(pixels, kind, strength, np.arange(len(pixels)), seed).numpy()


@pytest.mark.parametrize("strength", STRENGTHS)
def test_jpeg_is_that_of_pil(pixels, strength):
    quality = strength_values("jpeg", SIZE_PX)[strength - 1]
    for image, ours in zip(pixels.numpy(), applied(pixels, "jpeg", strength), strict=True):
        stored = io.BytesIO()
        Image.fromarray(image).save(stored, "JPEG", quality=quality)
        theirs = np.asarray(Image.open(stored)).astype(int)
        assert np.abs(ours - theirs).max() <= 2
        assert np.abs(ours - image.astype(int)).max() > 10, "it does lose something"


@pytest.mark.parametrize("strength", STRENGTHS)
def test_contrast_shrinks_the_distance_to_each_channels_mean(pixels, strength):
    factor = strength_values("contrast", SIZE_PX)[strength - 1]
    images = pixels.numpy().astype(np.float64)
    means = images.mean(axis=(1, 2), keepdims=True)
    expected = means + factor * (images - means)
    assert np.abs(applied(pixels, "contrast", strength) - expected).max() <= 0.5001


@pytest.mark.parametrize("strength", [1, 5])
def test_blur_is_a_gaussian_mean_of_the_neighbors(pixels, strength):
    deviation = strength_values("blur", SIZE_PX)[strength - 1]
    places = np.arange(SIZE_PX)
    # A row of weights for each pixel, over an image whose border pixels go on outside.
    outside = np.arange(-SIZE_PX, 2 * SIZE_PX)
    weights = np.exp(-0.5 * ((places[:, None] - outside) / deviation) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    smoothing = np.zeros((SIZE_PX, SIZE_PX))
    for column, place in enumerate(outside.clip(0, SIZE_PX - 1)):
        smoothing[:, place] += weights[:, column]
    expected = np.einsum("yr,brxc,kx->bykc", smoothing, pixels.numpy().astype(float), smoothing)
    # The filter ends at four deviations, where a Gaussian has 6e-5 of its weight left.
    assert np.abs(applied(pixels, "blur", strength) - expected).max() < 0.55


@pytest.mark.parametrize("strength", STRENGTHS)
def test_noise_is_normal_with_the_published_deviation(strength):
    gray = torch.full((3, 224, 224, 3), 128, dtype=torch.uint8)
    deviation = 255 * (0.08, 0.12, 0.18, 0.26, 0.38)[strength - 1]
    noise = applied(gray, "noise", strength).astype(int) - 128
    for limit in (-128, -60, -20, 0, 20, 60, 126):
        expected = norm.cdf((limit + 0.5) / deviation)
        error = (expected * (1 - expected) / noise.size) ** 0.5
        assert np.mean(noise <= limit) == pytest.approx(expected, abs=5 * error)
    channels = np.corrcoef(noise.reshape(-1, 3).T)
    assert np.abs(channels - np.eye(3)).max() < 5 / (noise.size / 3) ** 0.5


def test_noise_differs_by_sample_strength_and_seed_only():
    gray = torch.full((2, 32, 32, 3), 128, dtype=torch.uint8)
    first = corrupted(gray, "noise", 5, np.array([3, 2**40]), 0).numpy()
    again = corrupted(gray, "noise", 5, np.array([2**40, 3]), 0).numpy()
    np.testing.assert_array_equal(first, again[::-1])
    others = [
        first[1],
        corrupted(gray, "noise", 5, np.array([3, 4]), 1).numpy()[0],
        corrupted(gray, "noise", 4, np.array([3, 4]), 0).numpy()[0],
    ]
    for other in others:
        centered = [part.astype(float).ravel() - 128 for part in (first[0], other)]
        assert abs(np.corrcoef(*centered)[0, 1]) < 0.1


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_batch_and_threads_change_nothing(pixels, kind):
    whole = applied(pixels, kind, 3)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1 if num_threads > 1 else 2)
    try:
        parts = [
            corrupted(pixels[n : n + 1], kind, 3, np.array([n]), 0).numpy()
            for n in range(len(pixels))
        ]
    finally:
        torch.set_num_threads(num_threads)
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("size_px", [1, 28, 32, 64, 224])
def test_each_strength_takes_more_away_and_the_input_is_kept(kind, size_px):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, size_px, size_px, 3), dtype=np.uint8)
    pixels = torch.from_numpy(images.copy())
    results = [applied(pixels, kind, strength).astype(int) for strength in STRENGTHS]
    np.testing.assert_array_equal(pixels.numpy(), images)
    assert all(result.shape == images.shape for result in results)
    if size_px > 1:
        errors = [float(((result - images) ** 2).mean()) for result in results]
        assert errors[0] > 0
        assert errors == sorted(errors)
        assert len(set(errors)) == len(errors)


def test_strengths_are_those_of_the_closest_published_size():
    assert (
        strength_values("noise", 28) == strength_values("noise", 32) != strength_values("noise", 64)
    )
    assert strength_values("jpeg", 384) == strength_values("jpeg", 160) == (25, 18, 15, 10, 7)
    assert strength_values("blur", 112) == pytest.approx((0.875, 1.3125, 1.75, 2.1875, 2.625))
    assert strength_values("blur", 32) == (0.4, 0.6, 0.7, 0.8, 1.0)
    assert strength_values("blur", 64) == (0.5, 0.75, 1.0, 1.25, 1.5)
    assert strength_values("blur", 448) == pytest.approx((2, 4, 6, 8, 12))
