"""Mixup and CutMix: mixed images and labels, and their distributions."""

import numpy as np
import pytest
import torch
from scipy import stats

from service.spec.data_sections import Mixing
from service.training.mixing import mix, mix_other_view, random_pairs

SIZE = 32


def images_and_labels(num_images, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num_images, SIZE, SIZE, 3), generator=generator)
    return images.to(torch.uint8), torch.arange(num_images) % 5


def mixed(mixing, indices, epoch=1):
    images, labels = images_and_labels(100)
    chosen = torch.from_numpy(indices)
    return mix(mixing, images[chosen], labels[chosen], indices, num_classes=5, seed=3, epoch=epoch)


def test_mixup_blends_images_and_labels_in_one_proportion():
    indices = np.arange(40)
    images, labels = images_and_labels(100)
    found, targets = mixed(Mixing(mixup_alpha=1.0), indices)
    for position in indices:
        partner = position ^ 1
        share = float(targets[position, labels[position]])
        assert float(targets[position, labels[partner]]) == pytest.approx(1 - share, abs=1e-6)
        expected = share * images[position].double() + (1 - share) * images[partner].double()
        assert (found[position].double() - expected).abs().max() <= 0.51
    torch.testing.assert_close(targets.sum(1), torch.ones(40))


def test_cutmix_exchanges_a_box_and_labels_follow_its_area():
    indices = np.arange(60)
    images, labels = images_and_labels(100)
    found, targets = mixed(Mixing(cutmix_alpha=1.0), indices)
    areas = []
    for position in indices:
        partner = position ^ 1
        foreign = (found[position] != images[position]).any(dim=2)
        assert torch.equal(found[position][foreign], images[partner][foreign])
        rows, columns = foreign.any(dim=1), foreign.any(dim=0)
        box = int(rows.sum()) * int(columns.sum())
        share = float(targets[position, labels[position]])
        # Some pixels of the box may be equal; the box around the different ones is the one cut.
        assert share == pytest.approx(1 - box / SIZE**2, abs=1e-6)
        areas.append(1 - share)
    assert 0.1 < np.mean(areas) < 0.6


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_follow_the_beta_distribution(alpha):
    pairs = random_pairs(Mixing(mixup_alpha=alpha), np.arange(4000), SIZE, 1, 2)
    assert stats.kstest(pairs.shares, stats.beta(alpha, alpha).cdf).pvalue > 0.001


def test_probabilities_are_those_of_the_spec():
    both = Mixing(mixup_alpha=1.0, cutmix_alpha=1.0, probability=0.6)
    pairs = random_pairs(both, np.arange(5000), SIZE, 1, 2)
    assert np.mean(pairs.is_cut) == pytest.approx(0.3, abs=0.03)
    assert np.mean((pairs.shares < 1) & ~pairs.is_cut) == pytest.approx(0.3, abs=0.03)


def test_result_does_not_depend_on_how_batches_are_split():
    mixing = Mixing(mixup_alpha=0.4, cutmix_alpha=1.0)
    indices = np.random.default_rng(0).permutation(40)
    whole = mixed(mixing, indices)
    parts = [mixed(mixing, part) for part in np.split(indices, [4, 20, 38])]
    for output in range(2):
        assert torch.equal(whole[output], torch.cat([part[output] for part in parts]))
    assert not torch.equal(whole[0], mixed(mixing, indices, epoch=2)[0])


def test_odd_last_image_is_not_mixed():
    images, _ = images_and_labels(100)
    found, targets = mixed(Mixing(mixup_alpha=1.0), np.arange(5))
    assert torch.equal(found[4], images[4])
    assert targets[4].tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("num_images", [40, 7, 1])
def test_other_view_is_mixed_with_the_boxes_and_shares_of_the_first(num_images):
    mixing = Mixing(mixup_alpha=0.4, cutmix_alpha=1.0, probability=0.8)
    indices = np.random.default_rng(1).permutation(100)[:num_images]
    _, targets = mixed(mixing, indices)
    # Even rows of the view are 200 and odd ones 40, so its pixels show where they come from.
    is_odd = torch.arange(num_images) % 2
    levels = torch.where(is_odd == 1, 40, 200)[:, None, None, None]
    view = levels.expand(-1, SIZE, SIZE, 3).to(torch.uint8).contiguous()
    found = mix_other_view(mixing, view, indices, seed=3, epoch=1)
    params = random_pairs(mixing, indices[: num_images // 2 * 2 : 2], SIZE, 3, 1)
    for pair, (share, is_cut, box) in enumerate(zip(*params, strict=True)):
        expected = np.full((2, SIZE, SIZE, 3), [[[[200]]], [[[40]]]])
        if is_cut:
            top, left, bottom, right = box
            expected[:, top:bottom, left:right] = expected[::-1, top:bottom, left:right].copy()
        else:
            expected = np.rint(share * expected + (1 - share) * expected[::-1])
        difference = found[2 * pair : 2 * pair + 2].numpy() - expected
        assert np.abs(difference).max() <= (0 if is_cut else 1)
        # The mean of the pixels is that of the label distributions of the first view.
        own = float(targets[2 * pair, indices[2 * pair] % 5])
        if indices[2 * pair] % 5 != indices[2 * pair + 1] % 5:
            mean = found[2 * pair].double().mean()
            assert float(mean) == pytest.approx(40 + 160 * own, abs=0.51)
    if num_images % 2:
        assert torch.equal(found[-1], view[-1])


def test_first_view_mixed_as_another_one_is_what_mix_returns():
    mixing = Mixing(mixup_alpha=0.4, cutmix_alpha=1.0)
    indices = np.arange(21)
    images, _ = images_and_labels(100)
    found = mix_other_view(mixing, images[:21], indices, seed=3, epoch=1)
    assert torch.equal(found, mixed(mixing, indices)[0])
