"""The plan's numbers against hand calculations."""

import pytest

from service.models.build import build_model
from service.plan import format_plan, make_plan
from service.spec.loading import parse_job


def test_steps_rates_and_costs(make_content):
    plan = make_plan(parse_job(make_content()))
    # 256 images in batches of 64; the rate falls to a tenth after the first of two epochs.
    assert plan.num_steps_per_epoch == 4
    assert plan.rates == ((0.0, 0.05), (1.0, pytest.approx(0.005)), (2.0, pytest.approx(0.005)))
    # Three 3x3 convolutions with stride 2 on 16 pixels, and the classifier; 2 per multiply-add.
    convolutions = 9 * (3 * 8 * 64 + 8 * 16 * 16 + 16 * 32 * 4)
    assert plan.models[0].flops_per_image == 2 * (convolutions + 32 * 4)
    parameters = sum(p.numel() for p in build_model("cifar:tiny_cnn", 4).parameters())
    assert plan.models[0].num_parameters == parameters


def test_memory_grows_with_the_micro_batch(make_content):
    small = make_plan(parse_job(make_content(training={"micro_batch_size": 16})))
    large = make_plan(parse_job(make_content(training={"micro_batch_size": 32})))
    growth = large.memory_bytes - small.memory_bytes
    # At least each convolution's float32 output is kept for each image.
    assert growth > 16 * 4 * (8 * 64 + 16 * 16 + 32 * 4)
    # A much larger growth would mean that weights are counted once per image.
    assert growth < 16 * 4 * 10 * (8 * 64 + 16 * 16 + 32 * 4)


def test_plan_warns_about_likely_mistakes(make_content):
    teacher = {"model": "cifar:resnet8", "weights": {"source": "models:/t@champion"}}
    content = make_content(teacher=teacher, training={"global_batch_size": 96})
    text = format_plan(make_plan(parse_job(content)))
    assert "2 epochs x 2 steps = 4 steps of 96 images" in text
    assert "2 workers x 3 micro-batches of 16 images per step" in text
    assert "drops 64 images" in text
    assert "warmup_epochs is 20 of 2" in text
    assert "min_top1 is not set" in text


def test_plan_of_a_range_of_workers(make_content):
    plan = make_plan(parse_job(make_content(resources={"num_workers": [1, 3]})))
    assert "1 to 3 workers share 4 micro-batches of 16 images per step" in format_plan(plan)
    assert any("no multiple of 3 workers" in warning for warning in plan.warnings)
