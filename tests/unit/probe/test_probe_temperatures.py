"""Temperatures to search are fields of the losses in force, and valid in a sweep."""

import json

import pytest
import torch
from support.teacher_logits import posteriors

from service.probe.temperatures import temperature_ranges
from service.spec.losses import Losses
from service.sweep.loading import parse_sweep

LOGITS = 3 * posteriors(300, 4).log().clamp(min=-9)


def paths(losses):
    return [one.path for one in temperature_ranges(Losses(**losses), LOGITS)]


def test_every_number_that_is_a_temperature_is_named():
    assert paths({"ce": {}, "dtkd": {}, "kd": {}, "ttm": {"weight": 0}, "normkd": {}}) == [
        "losses.dtkd.base_temperature",
        "losses.kd.temperature",
    ]


def test_of_rules_only_dtkds_has_a_temperature():
    dynamic = {"kind": "dynamic"}
    assert paths({"kd": {"temperature": dynamic}}) == ["losses.kd.temperature.base_temperature"]
    assert paths({"kd": {"temperature": {"kind": "linear", "start": 8, "end": 1}}}) == []


def test_standardized_losses_have_the_range_of_standardized_logits():
    ls, kd, plain = temperature_ranges(Losses(ls={}, kd={"standardize": True}, dkd={}), 2 * LOGITS)
    (unscaled,) = temperature_ranges(Losses(ls={}), LOGITS)
    assert {ls.path, kd.path, plain.path} == {
        "losses.kd.temperature",
        "losses.dkd.temperature",
        "losses.ls.temperature",
    }
    by_path = {one.path: one[1:] for one in (ls, kd, plain)}
    assert by_path["losses.ls.temperature"] == by_path["losses.kd.temperature"] == unscaled[1:]
    assert by_path["losses.dkd.temperature"] != unscaled[1:]


@pytest.mark.parametrize(
    ("logits", "text"),
    [
        (0.0 * torch.eye(4, dtype=torch.float64), "flatter than 60% of log K at 0.5 already: set"),
        (0.9 * torch.eye(4, dtype=torch.float64), "flatter than 60% of log K at 0.5 already: set"),
        (1e6 * torch.eye(4, dtype=torch.float64), "surer than 10% of log K up to 16: use stand"),
        (40.0 * torch.eye(9_999, dtype=torch.float64)[:50], "set 4.4: the entropy rises"),
    ],
)
def test_ranges_without_room_say_what_to_do(logits, text):
    """Of 9,999 classes, the probability leaves the first one within a factor below 1.5."""
    (found,) = temperature_ranges(Losses(kd={}), logits)
    assert found.high < 1.5 * found.low
    assert not found.is_wide
    assert text in found.why_narrow


def test_the_lines_are_a_space_of_a_sweep(make_sweep_content):
    losses = {"ce": {}, "dtkd": {}, "kd": {"temperature": {"kind": "dynamic"}}}
    lines = ", ".join(map(str, temperature_ranges(Losses(**losses), LOGITS)))
    space = json.loads(f"{{{lines}}}")
    parse_sweep(make_sweep_content(base={"losses": losses}, space=space))
    assert len(space) == 2
