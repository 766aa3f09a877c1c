"""A profile of real steps, against counts by hand and the host's own clock."""

import gzip
import json
import time

import pytest
import torch
from support.training_runs import CPU

from service.distillation.regions import DATA, region
from service.spec.loading import parse_spec
from service.training.distributed import World
from service.training.profiling.peak import matrix_product_peak
from service.training.profiling.profile import Profile, format_profile
from service.training.profiling.profiler import (
    TRACE_NAME,
    profile_training,
    read_profile,
    training_flops_per_image,
)


def test_profile_of_a_run(make_content, teacher):
    spec = parse_spec(
        make_content(
            teacher=teacher,
            resources={"num_workers": 1},
            training={"global_batch_size": 48, "micro_batch_size": 16, "on_nonfinite": "stop"},
        )
    )
    spec.run_path.mkdir(parents=True)
    start_s = time.perf_counter()
    profile_training(spec, World(0, 1, CPU, 1))
    duration_s = time.perf_counter() - start_s
    profile = read_profile(spec.run_path)
    parts = dict(profile.parts_s)
    assert parts.pop("all-reduce") == 0
    assert all(seconds > 0 for seconds in parts.values())
    assert 3 * sum(parts.values()) < duration_s
    assert 0 < profile.resident_step_s < duration_s
    assert profile.num_images == 48
    assert profile.step_flops == 48 * training_flops_per_image(spec)
    assert not list(spec.run_path.glob("checkpoint_*"))
    with gzip.open(spec.run_path / TRACE_NAME) as file:
        names = [event["name"] for event in json.load(file)["traceEvents"]]
    # One step before the three that count; a step's micro-batches fit into one pass.
    assert names.count("step/teacher") == names.count("step/backward") == 4


def test_flops_of_a_step(make_content, teacher):
    # As in test_plan: three 3x3 convolutions with stride 2 on 16 pixels, and the classifier.
    student = 2 * (9 * (3 * 8 * 64 + 8 * 16 * 16 + 16 * 32 * 4) + 32 * 4)
    assert training_flops_per_image(parse_spec(make_content())) == 3 * student
    # resnet8: 16 pixels with 16 channels, halved and doubled twice, with 1x1 shortcuts.
    stages = 9 * (3 * 16 + 2 * 16 * 16) * 256
    for channels, pixels in ((32, 64), (64, 16)):
        stages += (9 * (channels // 2 + channels) * channels + channels // 2 * channels) * pixels
    total = training_flops_per_image(parse_spec(make_content(teacher=teacher)))
    assert total == 3 * student + 2 * (stages + 64 * 4)
    cached = {**teacher, "cache": {}}
    assert training_flops_per_image(parse_spec(make_content(teacher=cached))) == 3 * student


def test_figures_of_a_profile():
    parts = {"data": 0.01, "all-reduce": 0.03}
    profile = Profile(parts, 0.05, 0.04, 32, 2, 2e9, 1e11, "1 CPU threads, float32")
    metrics = profile.metrics
    assert metrics["profile/mfu"] == pytest.approx(0.4)
    assert metrics["profile/gap_to_resident"] == pytest.approx(0.25)
    assert metrics["profile/images_per_s"] == pytest.approx(1280)
    assert metrics["profile/all_reduce_share"] == pytest.approx(0.75)
    text = format_profile(profile)
    assert "all-reduce            30.00   75.0%" in text
    assert "MFU 40.0%: 40 of 100 GFLOP/s" in text
    assert "gap +25.0%" in text


def test_peak_is_between_what_a_product_reached_and_what_a_core_can():
    # No core adds and multiplies more than 64 float32 numbers at 6 GHz at a time.
    assert 1e8 < matrix_product_peak(CPU, torch.float32) < 2 * 64 * 6e9 * torch.get_num_threads()


def test_regions_are_free_without_a_profiler():
    assert region(DATA) is region("another")
