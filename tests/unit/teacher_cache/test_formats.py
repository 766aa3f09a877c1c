"""The stored forms of logits against numpy in float64."""

import numpy as np
import pytest
import torch

from service.spec.teacher_cache import TeacherCache
from service.teacher_cache.formats import Float16Logits, TopLogitsFormat, format_of

NUM_CLASSES, TOP_K = 100, 10
FORMATS = (Float16Logits(), TopLogitsFormat(TOP_K, NUM_CLASSES))


def random_logits(scale=3.0, num_rows=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num_rows, NUM_CLASSES, generator=generator)


def as_rows(stored, num_views=2):
    """Stored bytes where a row has them, after the checksum and an earlier view."""
    width = stored.shape[1]
    row = torch.zeros(len(stored), 4 + num_views * width, dtype=torch.uint8)
    row[:, 4 + width : 4 + 2 * width] = stored
    return row[:, 4:].chunk(num_views, dim=1)[1]


def kl_float64(logits, others, temperature):
    """Mean KL in nats between the softmax of two arrays [B, K]."""
    p, q = (np.exp(x.astype(np.float64) / temperature) for x in (logits, others))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return float((p * np.log(p / q)).sum(1).mean())


def test_float16_is_ieee_half_precision_wherever_it_is_in_a_row():
    logits = random_logits()
    stored = as_rows(Float16Logits().encode(logits))
    expected = logits.numpy().astype(np.float16).astype(np.float32)
    assert np.array_equal(Float16Logits().decode(stored).numpy(), expected)


def test_top_logits_keep_maximum_logsumexp_and_the_mass_of_the_others():
    logits = random_logits()
    top = TopLogitsFormat(TOP_K, NUM_CLASSES)
    found = top.decode(as_rows(top.encode(logits))).double().numpy()
    expected = logits.double().numpy()
    places = np.argsort(-expected, axis=1)
    largest, others = places[:, :TOP_K], places[:, TOP_K:]
    assert np.array_equal(
        np.take_along_axis(found, largest, 1), np.take_along_axis(expected, largest, 1)
    )
    np.testing.assert_allclose(
        np.log(np.exp(found).sum(1)), np.log(np.exp(expected).sum(1)), rtol=1e-6
    )
    mass = np.exp(np.take_along_axis(expected, others, 1)).sum(1)
    shares = np.exp(np.take_along_axis(found, others, 1))
    np.testing.assert_allclose(shares, np.repeat(mass[:, None] / others.shape[1], 90, 1), rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_error_of_top_logits_is_the_mean_kl_of_predictions(temperature):
    logits = random_logits(scale=6.0)
    top = TopLogitsFormat(TOP_K, NUM_CLASSES)
    stored = top.decode(top.encode(logits)).numpy()
    expected = kl_float64(logits.numpy(), stored, temperature)
    assert float(top.error(logits, [temperature])) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_error_of_float16_is_a_share_of_the_largest_logit():
    logits = random_logits()
    exact = logits.double().numpy()
    rounded = logits.numpy().astype(np.float16).astype(np.float64)
    expected = (np.abs(rounded - exact).max(1) / np.abs(exact).max(1)).max()
    assert float(Float16Logits().error(logits, [1.0])) == pytest.approx(expected, rel=1e-5)
    # Half the distance between two numbers of 11 bits.
    assert expected < 2**-11
    assert not float(Float16Logits().error(1e5 * logits, [1.0])) < 1.0


@pytest.mark.parametrize("form", FORMATS, ids=["float16", "top"])
def test_logits_of_another_image_are_a_mismatch_and_rounding_is_none(form):
    logits = random_logits()
    stored = form.encode(logits)
    rounding = 1.0 + 1e-5 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    assert float(form.mismatch(stored, logits * rounding).amax()) < 1e-3
    assert float(form.mismatch(stored, random_logits(seed=5)).amin()) > 0.1


@pytest.mark.parametrize("form", FORMATS, ids=["float16", "top"])
def test_logits_that_are_not_finite_stay_what_they_are(form):
    logits = random_logits()
    logits[0, :95] = -torch.inf
    logits[1, 3] = torch.nan
    found = form.decode(form.encode(logits))
    assert torch.equal(torch.isfinite(found[0]), torch.isfinite(logits[0]))
    assert found[1].isnan().any()
    assert torch.isfinite(found[2:]).all()
    assert not form.mismatch(form.encode(logits), logits).isnan().any()


def test_rows_have_the_bytes_that_the_spec_counts():
    for keep in ("float16", {"top_k": TOP_K}):
        cache = TeacherCache.model_validate({"keep": keep})
        stored = format_of(cache, NUM_CLASSES).encode(random_logits())
        assert stored.shape[1] == cache.view_bytes(NUM_CLASSES)
        assert cache.row_bytes(NUM_CLASSES, 2) == 4 + 2 * stored.shape[1]
