"""EA-KD's weights of samples against scipy's entropy."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from support.loss_inputs import NUM_CLASSES, NUM_SAMPLES, random_logits
from support.loss_oracles import softmax

from service.distillation.sample_weights import entropy_weights


def expected_weights(u, v, temperature):
    pairs = zip(u.numpy(), v.numpy(), strict=True)
    weights = []
    for teacher, student in pairs:
        of_teacher = scipy.stats.entropy(softmax(teacher / temperature))
        of_student = scipy.stats.entropy(softmax(student / temperature))
        weights.append(of_teacher * (1 + of_student / math.log(len(teacher))) / 2)
    return torch.tensor(np.array(weights))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("num_classes", [2, 10])
def test_equal_their_formula(temperature, num_classes):
    u, v, _ = random_logits(0, num_classes=num_classes)
    found = entropy_weights(u, v, temperature)
    torch.testing.assert_close(found, expected_weights(u, v, temperature), rtol=1e-11, atol=1e-13)


def test_are_between_zero_and_the_largest_entropy():
    teacher, student = torch.zeros(3, NUM_CLASSES), torch.zeros(3, NUM_CLASSES)
    teacher[0, 1] = student[0, 2] = student[1, 3] = 1e6
    sure, half, unsure = entropy_weights(teacher, student, 3.0).tolist()
    assert sure == 0.0
    assert half == pytest.approx(math.log(NUM_CLASSES) / 2)
    assert unsure == pytest.approx(math.log(NUM_CLASSES))
    u, v, _ = random_logits(1, num_samples=200)
    found = entropy_weights(u, v, 3.0)
    assert ((found > 0) & (found < math.log(NUM_CLASSES))).all()


def test_have_no_gradient():
    u, v = (part.requires_grad_() for part in random_logits(2)[:2])
    assert not entropy_weights(u, v, 3.0).requires_grad


def test_are_those_of_valid_positions():
    u, v, _ = random_logits(3)
    images = [rows.reshape(3, 4, NUM_CLASSES).movedim(2, 1) for rows in (u, v)]
    torch.testing.assert_close(entropy_weights(*images, 3.0), entropy_weights(u, v, 3.0))
    mask = torch.arange(NUM_SAMPLES).reshape(3, 4) % 3 > 0
    found = entropy_weights(*images, 3.0, mask)
    torch.testing.assert_close(found, entropy_weights(u, v, 3.0)[mask.flatten()])


def test_half_precision_is_computed_in_float32():
    u, v = (part.half() for part in random_logits(4)[:2])
    found = entropy_weights(u, v, 3.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, entropy_weights(u.float(), v.float(), 3.0))
