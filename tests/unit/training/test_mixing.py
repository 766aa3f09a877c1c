"""Mixup and CutMix: mixed images and labels, and their distributions."""

import numpy as np
import pytest
import torch
from scipy import stats

from service.spec.data_sections import Mixing
from service.training.mixing import mix, random_pairs

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
