"""The temperatures of the rule logsumexp: their residual, and what they cost."""

import pytest
import torch

from service.distillation import temperature
from service.distillation.temperature import matched_temperatures

TAU, FLOOR = 4.0, 0.05


def shapes(num_rows, num_classes, generator):
    """Rows of many shapes, with the largest absolute value 1 after centering."""
    noise = torch.randn(num_rows, num_classes, generator=generator, dtype=torch.float64)
    spike, spikes, step = 0.05 * noise, 0.05 * noise, torch.zeros_like(noise)
    spike[:, 0] += 2.0
    spikes[:, :2] += torch.rand(num_rows, 2, generator=generator) + 1.0
    step[:, 0] = 1.0
    for rows in (noise, spike, spikes, step, -step, -noise.exp(), (1.5 * noise).exp()):
        centered = rows - rows.mean(dim=1, keepdim=True)
        yield centered / centered.abs().amax(dim=1, keepdim=True)


def all_pairs(num_classes, scale, num_rows=3):
    """Rows of teacher and student in all pairs of shapes, at scales that differ by up to 16."""
    generator = torch.Generator().manual_seed(num_classes)
    pairs = [
        (scale * u, scale * ratio * v)
        for u in shapes(num_rows, num_classes, generator)
        for v in shapes(num_rows, num_classes, generator)
        for ratio in (1 / 16, 1.0, 16.0)
    ]
    return [torch.cat(rows) for rows in zip(*pairs, strict=True)]


def sharpness(rows, temperatures):
    centered = rows - rows.mean(dim=1, keepdim=True)
    return torch.logsumexp(centered / temperatures, dim=1)


def residuals(u, v, found):
    """LSE(u / T_tea) - LSE(v / T_stu), relative to it where it is large."""
    teacher, student = sharpness(u, found.teacher), sharpness(v, found.student)
    return (teacher - student) / teacher.clamp_min(1.0)


@pytest.mark.parametrize("scale", [1e-3, 1e-1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_the_logsumexps_are_equal_or_the_nearest_bound_is_taken(num_classes, scale):
    u, v = all_pairs(num_classes, scale)
    found = matched_temperatures(u, v, TAU, sharpness="logsumexp", floor=FLOOR)
    gaps = residuals(u, v, found)
    assert not found.clamped.all()
    assert gaps[~found.clamped].abs().max() <= 1e-9
    # A clamped share is a bound, beyond which the gap has its root: it falls with the share.
    is_low = found.teacher[:, 0] < TAU
    bounds = torch.where(is_low, 2 * TAU * FLOOR, 2 * TAU * (1 - FLOOR)).double()
    clamped = found.clamped
    torch.testing.assert_close(found.teacher[clamped, 0], bounds[clamped])
    assert (torch.where(is_low, gaps, -gaps)[clamped] <= 1e-9).all()


def test_many_classes():
    u, v = all_pairs(21_000, 10.0, num_rows=1)
    found = matched_temperatures(u, v, TAU, sharpness="logsumexp", floor=FLOOR)
    assert residuals(u, v, found)[~found.clamped].abs().max() <= 1e-9


@pytest.mark.parametrize("scale", [1e-12, 1e-30])
def test_rows_that_are_nearly_flat_are_matched_by_their_deviations(scale):
    """Of which the logsumexp is a function there, as it is of a normal distribution."""
    generator = torch.Generator().manual_seed(0)
    u, v = scale * torch.randn(2, 4, 50, generator=generator, dtype=torch.float64)
    found = matched_temperatures(u, 3 * v, TAU, sharpness="logsumexp")
    teacher, student = u.std(dim=1), 3 * v.std(dim=1)
    expected = 2 * TAU * teacher / (teacher + student)
    torch.testing.assert_close(found.teacher[:, 0], expected)
    assert not found.clamped.any()


def test_the_logits_of_each_side_are_read_four_times(monkeypatch):
    calls, evaluate = [], temperature._log_sharpness
    monkeypatch.setattr(
        temperature, "_log_sharpness", lambda *given: calls.append(1) or evaluate(*given)
    )
    u, v = all_pairs(10, 1.0)
    matched_temperatures(u, v, TAU, sharpness="logsumexp")
    assert len(calls) == 2 * 4
