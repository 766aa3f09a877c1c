"""Every operation on pixels, checked against torchvision's of uint8 tensors."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from data_pipeline.augmentation import affine, color, rand_augment, tone
from data_pipeline.compiled import counter_rng

BLACK = np.zeros(3, np.uint8)
KEYS = [np.uint64(counter_rng.sample_key(3, 1, index)) for index in range(40)]


def smooth_image(height, width, seed=0):
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def noisy_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


IMAGES = {
    "smooth": smooth_image(61, 84),
    "noisy": noisy_image(64, 48),
    "narrow range": noisy_image(40, 40) // 4 + 50,
    "two levels": noisy_image(40, 40) // 128 * 255,
    "one level": np.full((40, 40, 3), 77, np.uint8),
    "few pixels": noisy_image(9, 12),
}


def by_torchvision(function, image, *arguments):
    found = function(torch.from_numpy(image.copy()).permute(2, 0, 1), *arguments)
    return found.permute(1, 2, 0).numpy()


def by_us(function, image, *arguments):
    found = image.copy()
    function(found, *arguments)
    return found


def differences(found, expected):
    """The largest difference of each pixel's channels, in levels."""
    return np.abs(found.astype(int) - expected.astype(int)).max(axis=2)


def largest_difference(ours, theirs, *arguments):
    return max(
        differences(by_us(ours, image, *arguments), by_torchvision(theirs, image, *arguments)).max()
        for image in IMAGES.values()
    )


# Levels may differ by one where the exact result is an integer: float32 may be just below it, and
# is truncated.


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.613, 1.0, 1.27, 1.4, 2.5])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_adjustments_of_color(name, factor):
    ours, theirs = getattr(color, f"adjust_{name}"), getattr(functional, f"adjust_{name}")
    assert largest_difference(ours, theirs, factor) <= 1


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.4, 2.5])
def test_sharpness(factor):
    def sharpen(image, factor):
        tone.adjust_sharpness(image, factor, np.empty_like(image))

    assert largest_difference(sharpen, functional.adjust_sharpness, factor) <= 1


@pytest.mark.parametrize("factor", [-0.5, -0.31, -1 / 6, 0.0, 0.05, 0.1, 1 / 3, 0.5])
def test_hue(factor):
    for image in (smooth_image(224, 224), noisy_image(224, 224), IMAGES["one level"]):
        found = by_us(color.adjust_hue, image, factor)
        expected = by_torchvision(functional.adjust_hue, image, factor)
        assert differences(found, expected).max() <= 1
        assert (differences(found, expected) > 0).mean() < 0.005


def test_luma_is_the_integer_part_of_the_decimal_formula():
    levels = np.arange(0, 256, 3, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 86, 3)
    red, green, blue = np.moveaxis(cube.astype(int), -1, 0)
    found = by_us(color.adjust_saturation, cube, 0.0)
    expected = (2989 * red + 5870 * green + 1140 * blue) // 10000
    assert np.array_equal(found, np.stack([expected] * 3, axis=-1))


def test_tone():
    for bits in range(9):
        assert largest_difference(tone.posterize, functional.posterize, bits) == 0
    for threshold in (0.0, 100.5, 128.0, 255.0):
        assert largest_difference(tone.solarize, functional.solarize, threshold) == 0
    assert largest_difference(tone.equalize, functional.equalize) == 0
    assert largest_difference(tone.autocontrast, functional.autocontrast) <= 1


def only_operation(name, magnitude, fill=None):
    """torchvision's RandAugment with one operation to choose from."""

    class OnlyOperation(v2.RandAugment):
        _AUGMENTATION_SPACE = {name: v2.RandAugment._AUGMENTATION_SPACE[name]}  # noqa: RUF012

    return OnlyOperation(num_ops=1, magnitude=magnitude, fill=fill)


def apply_operation(image, operation, magnitude, sign, fill):
    scratch = np.empty_like(image)
    if rand_augment.SHEAR_X <= operation <= rand_augment.ROTATE:
        matrix = rand_augment.geometry(operation, magnitude, sign, *image.shape[:2])
        affine.transform(image, matrix, fill, scratch)
    elif operation != rand_augment.IDENTITY:
        rand_augment.transform_levels(image, operation, magnitude, sign, scratch)


OPERATIONS = list(v2.RandAugment._AUGMENTATION_SPACE)


# Odd magnitudes and both ends only: at others, solarize's threshold can be an integer level, and
# torchvision's float32 threshold may be on either side of it.
@pytest.mark.parametrize("magnitude", [0, 9, 13, 30])
@pytest.mark.parametrize("operation", range(rand_augment.NUM_OPERATIONS), ids=OPERATIONS)
def test_operations_of_rand_augment(monkeypatch, operation, magnitude):
    fill = np.array([9, 80, 200], np.uint8)
    reference = only_operation(OPERATIONS[operation], magnitude, fill.tolist())
    for sign in (1, -1):
        monkeypatch.setattr(torch, "rand", lambda *_, s=sign: torch.tensor(0.5 + 0.25 * s))
        for image in IMAGES.values():
            expected = by_torchvision(reference, image)
            found = by_us(apply_operation, image, operation, magnitude, sign, fill)
            if operation in (rand_augment.SHEAR_X, rand_augment.SHEAR_Y, rand_augment.ROTATE):
                # A source midway between two pixels in float32 may be rounded to either.
                assert (differences(found, expected) == 0).mean() >= 0.99
            else:
                assert differences(found, expected).max() <= (operation > rand_augment.ROTATE)


def test_all_magnitudes_translate_by_whole_pixels_alike():
    for side in (32, 96, 128, 160, 192, 224, 299, 331, 384):
        for magnitude in range(31):
            space = v2.RandAugment._AUGMENTATION_SPACE["TranslateX"][0](31, side, side)
            moved = rand_augment.num_pixels_moved(side, magnitude)
            assert moved == int(float(space[magnitude]))


def test_a_source_midway_between_two_pixels_is_read_from_one_of_them():
    image = noisy_image(60, 80)
    found = by_us(affine.transform, image, affine.shear(0.2, 0.0), BLACK, np.empty_like(image))
    nearby = [
        by_torchvision(
            lambda image, slope: functional.affine(
                image, 0.0, [0, 0], 1.0, [np.degrees(np.arctan(slope)), 0.0], center=[0, 0]
            ),
            image,
            slope,
        )
        for slope in (0.2 - 1e-5, 0.2 + 1e-5)
    ]
    # One row in five is such a tie, which the two nearby slopes resolve differently.
    assert (differences(*nearby) > 0).mean() > 0.1
    assert np.minimum(*(differences(found, expected) for expected in nearby)).max() == 0


def test_rand_augment_applies_the_operations_it_chose():
    image = smooth_image(40, 50)
    for key in KEYS:
        expected = image.copy()
        for turn in range(3):
            operation, sign = rand_augment.chosen_operation(key, turn)
            apply_operation(expected, operation, 12, sign, BLACK)
        found = by_us(rand_augment.rand_augment, image, 3, 12, BLACK, key, np.empty_like(image))
        assert np.array_equal(found, expected)


def test_jitter_is_its_four_adjustments_in_the_sampled_order():
    image, strengths = smooth_image(48, 56), np.array([0.4, 0.4, 0.4, 0.1])
    adjustments = [
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    ]
    for key in KEYS:
        expected, factors = image, color.jitter_factors(strengths, key)
        for kind in color.jitter_order(key):
            expected = by_torchvision(adjustments[kind], expected, float(factors[kind]))
        found = differences(by_us(color.color_jitter, image, strengths, key), expected)
        # A level of difference may grow by 1.4 in each of the adjustments that follow.
        assert found.max() <= 5
        assert found.mean() < 0.1
    unchanged = by_us(color.color_jitter, image, np.zeros(4), KEYS[0])
    assert np.array_equal(unchanged, image)
