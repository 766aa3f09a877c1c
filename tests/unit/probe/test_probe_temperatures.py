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


@pytest.mark.parametrize("scale", [0.0, 1e6])
def test_predictions_that_no_temperature_changes_have_no_range(scale):
    logits = scale * torch.eye(4, dtype=torch.float64)
    assert list(temperature_ranges(Losses(kd={}), logits)) == []


def test_the_lines_are_a_space_of_a_sweep(make_sweep_content):
    losses = {"ce": {}, "dtkd": {}, "kd": {"temperature": {"kind": "dynamic"}}}
    lines = ", ".join(map(str, temperature_ranges(Losses(**losses), LOGITS)))
    space = json.loads(f"{{{lines}}}")
    parse_sweep(make_sweep_content(base={"losses": losses}, space=space))
    assert len(space) == 2
