"""Compares runs that must have the same result."""

import torch
from support.training_runs import final, loss_series


def assert_same_result(actual, expected):
    """Two runs, given by their specs, have equal weights, progress and series of metrics."""
    (weights, progress), (expected_weights, expected_progress) = final(actual), final(expected)
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected_weights.items())
    assert progress == expected_progress
    assert loss_series(actual) == loss_series(expected)
