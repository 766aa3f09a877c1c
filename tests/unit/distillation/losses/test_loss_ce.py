"""Cross-entropy against its formula, written out sample by sample."""

import numpy as np
import pytest
import torch
from support.loss_inputs import NUM_CLASSES, NUM_SAMPLES, random_logits
from support.loss_oracles import softmax

from service.distillation.losses.base import Context, LossInputs
from service.distillation.losses.ce import CeLoss, cross_entropy
from service.spec.losses.ce import Ce


def expected_loss(logits, targets):
    """Mean of -sum(target x log q) over the rows of both."""
    rows = zip(np.asarray(logits), np.asarray(targets), strict=True)
    return np.mean([-(target * np.log(softmax(z))).sum() for z, target in rows])


def distributions(seed):
    return np.random.default_rng(seed).dirichlet(np.ones(NUM_CLASSES), NUM_SAMPLES)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_label_smoothing_mixes_in_the_uniform_distribution(smoothing):
    _, logits, labels = random_logits(0)
    targets = (1 - smoothing) * np.eye(NUM_CLASSES)[labels] + smoothing / NUM_CLASSES
    found = cross_entropy(logits, labels, smoothing)
    assert found.item() == pytest.approx(expected_loss(logits, targets), rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_targets_may_be_distributions(smoothing):
    _, logits, _ = random_logits(1)
    mixed = distributions(0)
    targets = (1 - smoothing) * mixed + smoothing / NUM_CLASSES
    found = cross_entropy(logits, torch.tensor(mixed), smoothing)
    assert found.item() == pytest.approx(expected_loss(logits, targets), rel=1e-12)


def test_it_is_the_mean_over_valid_positions():
    _, logits, labels = random_logits(2)
    images = logits.reshape(3, 4, NUM_CLASSES).movedim(2, 1)
    mask = torch.arange(NUM_SAMPLES).reshape(3, 4) % 3 > 0
    valid = mask.flatten().numpy()
    targets = np.eye(NUM_CLASSES)[labels]
    found = cross_entropy(images, labels.reshape(3, 4), mask=mask)
    assert found.item() == pytest.approx(expected_loss(logits[valid], targets[valid]), rel=1e-12)
    mixed = torch.tensor(distributions(1))
    found = cross_entropy(images, mixed.reshape(3, 4, NUM_CLASSES).movedim(2, 1), mask=mask)
    assert found.item() == pytest.approx(expected_loss(logits[valid], mixed[valid]), rel=1e-12)


def test_both_views_are_added():
    weak, strong, labels = random_logits(3)
    inputs = LossInputs(weak, labels, 0, strong_student_logits=strong)
    context = Context(NUM_CLASSES, 1, label_smoothing=0.1)
    targets = 0.9 * np.eye(NUM_CLASSES)[labels] + 0.01
    expected = expected_loss(weak, targets)
    assert CeLoss(Ce(), context)(inputs).item() == pytest.approx(expected, rel=1e-12)
    expected += expected_loss(strong, targets)
    found = CeLoss(Ce(views="both"), context)(inputs)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_other_shapes_are_refused():
    _, logits, labels = random_logits(4)
    with pytest.raises(ValueError, match="labels is"):
        cross_entropy(logits, labels[:-1])
    with pytest.raises(ValueError, match="mask is"):
        cross_entropy(logits, labels, mask=torch.ones(NUM_SAMPLES, 1, dtype=torch.bool))
