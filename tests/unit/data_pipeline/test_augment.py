"""Which augmentations a sample gets: their distributions, and what they depend on."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from data_pipeline.augmentation import color, erasing, rand_augment
from data_pipeline.augmentation.samples import (
    Augmentations,
    ColorJitterParams,
    ErasingParams,
    RandAugmentParams,
    augment_samples,
)
from data_pipeline.compiled import counter_rng

BLACK = np.zeros(3, np.uint8)
NUM_SAMPLES = 4000
EVERYTHING = Augmentations(
    RandAugmentParams(2, 9), ColorJitterParams(0.4, 0.4, 0.4, 0.1), ErasingParams(0.7, fill="noise")
)


def smooth_image(height, width, seed=0):
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def keys(count=NUM_SAMPLES, stream=1):
    return [
        np.uint64(counter_rng.stream_key(np.uint64(counter_rng.sample_key(3, 1, index)), stream))
        for index in range(count)
    ]


def chi_squared(counts):
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


def augmented(images, indices, augmentations, seed=1, epoch=2):
    found = np.ascontiguousarray(images)
    augment_samples(found, np.asarray(indices), augmentations.parameters(), seed, epoch)
    return found


def test_rand_augment_chooses_operations_and_signs_uniformly():
    chosen = [
        [rand_augment.chosen_operation(key, turn) for turn in range(2)] for key in keys(14 * 300)
    ]
    for turn in range(2):
        operations = [choice[turn][0] for choice in chosen]
        # Chi-squared with 13 degrees of freedom: 34.5 is its 0.999 quantile.
        assert chi_squared(np.bincount(operations, minlength=14)) < 34.5
        assert len(np.bincount(operations)) == rand_augment.NUM_OPERATIONS
        signs = [choice[turn][1] for choice in chosen]
        # The standard deviation of the mean and correlation of 4200 samples is 0.0154.
        assert abs(np.mean(signs)) < 0.06
        assert abs(np.corrcoef(operations, signs)[0, 1]) < 0.06
    same = np.mean([first[0] == second[0] for first, second in chosen])
    assert same == pytest.approx(1 / 14, abs=0.015)


def test_jitter_samples_uniform_factors_and_orders():
    strengths = np.array([0.4, 1.5, 0.0, 0.1])
    factors = np.array([color.jitter_factors(strengths, key) for key in keys()])
    for kind, (low, high) in enumerate([(0.6, 1.4), (0.0, 2.5), (1.0, 1.0), (-0.1, 0.1)]):
        sampled, width = factors[:, kind], high - low
        assert low <= sampled.min() <= low + 0.01 * width
        assert high - 0.01 * width <= sampled.max() <= high
        assert sampled.mean() == pytest.approx((low + high) / 2, abs=0.02 * width)
    # The standard deviation of a correlation of 4000 samples is 0.0158.
    assert np.abs(np.corrcoef(factors[:, [0, 1, 3]].T) - np.eye(3)).max() < 0.065
    orders = [tuple(color.jitter_order(key)) for key in keys()]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 24
    # Chi-squared with 23 degrees of freedom: 49.7 is its 0.999 quantile.
    assert chi_squared(counts) < 49.7


@pytest.mark.parametrize("scale", [(0.02, 0.33), (0.7, 1.0)])
def test_erased_boxes_follow_torchvision(scale):
    ratio, height, width = (0.3, 3.3), 90, 120
    torch.manual_seed(0)
    blank = torch.empty(3, height, width)
    reference = np.array(
        [
            transforms.RandomErasing.get_params(blank, scale, ratio, [0.0])[:4]
            for _ in range(NUM_SAMPLES)
        ]
    )
    # torchvision returns the whole image if no box fits, and then erases nothing.
    reference[(reference[:, 2:] == (height, width)).all(axis=1)] = 0
    boxes = np.array(
        [erasing.erased_box(height, width, np.array(scale), np.array(ratio), key) for key in keys()]
    )
    assert (boxes[:, 0] + boxes[:, 2]).max() <= height
    assert (boxes[:, 1] + boxes[:, 3]).max() <= width

    def measures(boxes):
        """Relative area, log aspect ratio and relative top and left, [4, num_boxes]."""
        top, left, box_height, box_width = boxes[boxes[:, 2] > 0].T
        areas, shapes = box_height * box_width / (height * width), np.log(box_height / box_width)
        return np.stack([areas, shapes, top / (height - box_height), left / (width - box_width)])

    found, expected = measures(boxes), measures(reference)
    assert found.shape[1] / NUM_SAMPLES == pytest.approx(expected.shape[1] / NUM_SAMPLES, abs=0.03)
    assert found.mean(axis=1) == pytest.approx(expected.mean(axis=1), abs=0.035)
    assert found.std(axis=1) == pytest.approx(expected.std(axis=1), abs=0.035)
    # The standard deviation of both correlations is 0.0158.
    assert np.corrcoef(found) == pytest.approx(np.corrcoef(expected), abs=0.09)


def test_the_whole_image_is_never_erased():
    everything = np.array([1.0, 1.0])
    assert erasing.erased_box(50, 50, everything, everything, keys(1)[0]) == (0, 0, 0, 0)


def test_erasing_paints_its_box_and_nothing_else():
    image, red = np.full((40, 50, 3), 7, np.uint8), np.array([200, 100, 50], np.uint8)
    scale, ratio = np.array([0.02, 0.33]), np.array([0.3, 3.3])
    num_erased = 0
    for key in keys(1000):
        found = image.copy()
        erasing.erase(found, 0.3, scale, ratio, erasing.FILL_COLOR, red, key)
        if np.array_equal(found, image):
            continue
        num_erased += 1
        top, left, height, width = erasing.erased_box(40, 50, scale, ratio, key)
        expected = image.copy()
        expected[top : top + height, left : left + width] = red
        assert np.array_equal(found, expected)
    # Four standard deviations of 1000 samples of probability 0.3.
    assert num_erased == pytest.approx(300, abs=58)


def test_noise_is_uniform_in_each_channel_and_differs_between_samples():
    scale, ratio = np.array([0.9, 0.9]), np.array([1.0, 1.0])
    found = []
    for key in keys(2):
        image = np.zeros((200, 200, 3), np.uint8)
        erasing.erase(image, 1.0, scale, ratio, erasing.FILL_NOISE, BLACK, key)
        top, left, height, width = erasing.erased_box(200, 200, scale, ratio, key)
        found.append(image[top : top + height, left : left + width].reshape(-1, 3))
    for channel in range(3):
        # Chi-squared with 255 degrees of freedom: 330.5 is its 0.999 quantile.
        assert chi_squared(np.bincount(found[0][:, channel], minlength=256)) < 330.5
    series = np.concatenate([noise.T for noise in found]).astype(float)
    # Channels, samples and neighbors: for 36,100 pairs, the standard deviation is 0.0053.
    assert np.abs(np.corrcoef(series) - np.eye(6)).max() < 0.025
    assert abs(np.corrcoef(series[0, 1:], series[0, :-1])[0, 1]) < 0.025


def test_samples_go_through_rand_augment_then_jitter_then_erasing():
    image, index, scratch = smooth_image(40, 50), 5, np.empty((40, 50, 3), np.uint8)
    plan = EVERYTHING._replace(erasing=ErasingParams(1.0, color=(200, 100, 50)))
    expected, key = image.copy(), np.uint64(counter_rng.sample_key(1, 2, index))
    first, second, third = (np.uint64(counter_rng.stream_key(key, stream)) for stream in (1, 2, 3))
    rand_augment.rand_augment(expected, 2, 9, BLACK, first, scratch)
    color.color_jitter(expected, np.array(plan.color_jitter), second)
    scale, ratio = np.array(plan.erasing.scale), np.array(plan.erasing.ratio)
    painted = np.array(plan.erasing.color, np.uint8)
    erasing.erase(expected, 1.0, scale, ratio, erasing.FILL_COLOR, painted, third)
    assert np.array_equal(augmented(image[None], [index], plan)[0], expected)


def test_pixels_depend_on_seed_epoch_and_sample_alone():
    images = np.stack([smooth_image(40, 40, seed) for seed in range(32)])
    indices = np.arange(100, 132)
    reference = augmented(images.copy(), indices, EVERYTHING)
    assert (reference != images).any(axis=(1, 2, 3)).all()
    shuffled = np.random.default_rng(0).permutation(32)
    found = augmented(images[shuffled], indices[shuffled], EVERYTHING)
    assert np.array_equal(found, reference[shuffled])
    with ThreadPoolExecutor(3) as pool:
        parts = [slice(low, low + 4) for low in range(0, 32, 4)]
        jobs = [
            pool.submit(augmented, images[part].copy(), indices[part], EVERYTHING) for part in parts
        ]
        found = np.concatenate([job.result() for job in jobs])
    assert np.array_equal(found, reference)
    for other in ({"seed": 2}, {"epoch": 3}):
        found = augmented(images.copy(), indices, EVERYTHING, **other)
        assert (found != reference).any(axis=(1, 2, 3)).mean() > 0.9
    assert np.array_equal(augmented(images.copy(), indices, Augmentations()), images)


def test_streams_are_independent_of_the_crop_and_of_each_other():
    crop_keys = [np.uint64(counter_rng.sample_key(3, 1, index)) for index in range(NUM_SAMPLES)]
    streams = [crop_keys, *(keys(stream=stream) for stream in (1, 2, 3))]
    numbers = [
        [counter_rng.uniform(key, counter) for key in part]
        for part in streams
        for counter in range(4)
    ]
    # 120 pairs of independent series: a correlation's standard deviation is 0.0158.
    assert np.abs(np.corrcoef(numbers) - np.eye(16)).max() < 0.065
    # The erased box does not depend on the other augmentations.
    images, indices = np.full((32, 40, 40, 3), 90, np.uint8), np.arange(32)
    erase = ErasingParams(1.0, color=(255, 0, 255))
    alone = augmented(images.copy(), indices, Augmentations(erasing=erase))
    everything = augmented(images.copy(), indices, EVERYTHING._replace(erasing=erase))
    assert np.array_equal((alone == (255, 0, 255)).all(3), (everything == (255, 0, 255)).all(3))


@pytest.mark.parametrize(
    ("augmentations", "message"),
    [
        (Augmentations(RandAugmentParams(num_ops=-1)), "num_ops"),
        (Augmentations(RandAugmentParams(magnitude=31)), "magnitude must be 0 to 30"),
        (Augmentations(RandAugmentParams(fill=(0, 0, 256))), "levels from 0 to 255"),
        (Augmentations(color_jitter=ColorJitterParams(contrast=-0.1)), "strengths"),
        (Augmentations(color_jitter=ColorJitterParams(hue=0.6)), r"hue must be at most 0\.5"),
        (Augmentations(erasing=ErasingParams(1.1)), "probability"),
        (Augmentations(erasing=ErasingParams(0.5, scale=(0.3, 0.1))), "scale"),
        (Augmentations(erasing=ErasingParams(0.5, ratio=(0.0, 1.0))), "ratio"),
    ],
)
def test_parameter_out_of_range_is_named(augmentations, message):
    with pytest.raises(ValueError, match=message):
        augmentations.parameters()
