"""Logits to test losses with, and comparisons with an oracle of one sample."""

import numpy as np
import torch

NUM_SAMPLES, NUM_CLASSES = 12, 10


def random_logits(seed, num_samples=NUM_SAMPLES, num_classes=NUM_CLASSES):
    """Teacher logits, student logits and labels, in float64."""
    generator = np.random.default_rng(seed)
    u = 4.0 * generator.standard_normal((num_samples, num_classes))
    v = 1.5 * generator.standard_normal((num_samples, num_classes))
    labels = generator.integers(0, num_classes, num_samples)
    return torch.tensor(u), torch.tensor(v), torch.tensor(labels)


def by_sample(oracle, u, v, *labels):
    """The oracle's losses of all samples."""
    rows = zip(u.numpy(), v.numpy(), *(part.tolist() for part in labels), strict=True)
    return torch.tensor([float(oracle(*row)) for row in rows], dtype=torch.float64)


def assert_equals_oracle(found, expected):
    """Equal up to the rounding of float64, relative to losses of the order of 1."""
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def assert_gradient(loss, u, v):
    """The gradient to the student's logits is that of finite differences, in float64."""
    student = v.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(u, z), (student,), eps=1e-6, atol=1e-6)
