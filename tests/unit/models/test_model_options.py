"""Options reach the network, keep its tensors and its evaluation, and are refused where they do
nothing.
"""

import pytest
import timm.layers
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from service.models.build import build_model, build_on_meta_device, build_with_weights
from service.plan import build_models_on_meta
from service.run.execution import Execution
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.spec.model_names import TORCHVISION_MODELS
from service.spec.model_options import TAKEN_BY
from service.spec.networks import STUDENT
from service.training.factory import build_task


def first_of_each(option):
    """A network of torchvision for each start of a name in the table."""
    starts = [start for start in TAKEN_BY[option] if start != "timm:"]
    return [min(name for name in TORCHVISION_MODELS if name.startswith(s)) for s in starts]


@pytest.mark.parametrize("name", first_of_each("dropout"))
def test_dropout_of_torchvision(name):
    model = build_on_meta_device(name, 4, options={"dropout": 0.375})
    assert 0.375 in [each.p for each in model.modules() if isinstance(each, nn.Dropout)]
    assert list(model.state_dict()) == list(build_on_meta_device(name, 4).state_dict())


@pytest.mark.parametrize("name", first_of_each("stochastic_depth_prob"))
def test_stochastic_depth_of_torchvision_rises_to_the_probability(name):
    model = build_on_meta_device(name, 4, options={"stochastic_depth_prob": 0.4})
    rates = [each.p for each in model.modules() if isinstance(each, StochasticDepth)]
    assert rates == sorted(rates)
    # EfficientNet's last of n blocks has (n - 1) / n of it.
    assert 0.4 * (len(rates) - 1) / len(rates) <= max(rates) <= 0.4
    assert list(model.state_dict()) == list(build_on_meta_device(name, 4).state_dict())


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_residual_branches_of_torchvision_start_as_zero(name):
    for is_zero in (False, True):
        model = build_model(name, 4, options={"zero_init_residual": is_zero})
        last = model.layer1[0].bn3 if hasattr(model.layer1[0], "bn3") else model.layer1[0].bn2
        assert bool((last.weight == 0).all()) == is_zero


def test_drop_rate_of_densenet():
    model = build_on_meta_device("densenet121", 4, options={"drop_rate": 0.25})
    assert model.features.denseblock1.denselayer1.drop_rate == 0.25


def test_options_of_timm():
    options = {"drop_path_rate": 0.3, "drop_rate": 0.2}
    model = build_on_meta_device("timm:vit_tiny_patch16_224", 4, options=options)
    rates = [m.drop_prob for m in model.modules() if isinstance(m, timm.layers.DropPath)]
    assert max(rates) == pytest.approx(0.3)
    assert model.head_drop.p == 0.2
    plain = build_on_meta_device("timm:vit_tiny_patch16_224", 4)
    assert list(model.state_dict()) == list(plain.state_dict())
    resnet = build_model("timm:resnet10t", 4, options={"zero_init_last": False})
    assert (resnet.layer1[0].bn2.weight == 1).all()


def test_option_that_timms_network_does_not_take_is_named():
    options = {"drop_path_rate": 0.1, "drop_rate": 0.2}
    with pytest.raises(BadInputError) as caught:
        build_with_weights(STUDENT, "timm:vgg11", 4, None, options=options)
    assert [str(problem) for problem in caught.value.problems] == [
        "student.options.drop_path_rate: is set, but timm:vgg11 does not take it; remove it; it "
        "takes drop_rate"
    ]


def test_options_reach_training_and_plan(make_content):
    content = make_content(student={"model": "mobilenet_v2", "options": {"dropout": 0.625}})
    content |= {"augmentation": {"size": 32}}
    spec = parse_spec(content)
    for model in (
        build_task(spec, torch.device("cpu"), Execution.plain(spec)).trainee.student,
        build_models_on_meta(spec)[STUDENT],
    ):
        assert model.classifier[0].p == 0.625


@pytest.mark.parametrize(
    ("student", "where", "word"),
    [
        ({"model": "resnet18", "options": {"dropout": 0.1}}, "options.dropout", "zero_init_res"),
        ({"model": "cifar:resnet8", "options": {"drop_rate": 0.1}}, "options.drop_rate", "remove"),
        ({"model": "timm:x", "options": {"dropout": 0.1}}, "options.dropout", "drop_path_rate"),
        ({"model": "vgg11", "options": {"dropout": 1}}, "options.dropout", "less than 1"),
        ({"model": "vgg11", "options": {"drop_out": 0.5}}, "options.drop_out", "options.dropout"),
    ],
    ids=str,
)
def test_options_are_checked_in_the_spec(make_content, student, where, word):
    with pytest.raises(BadInputError) as caught:
        parse_spec(make_content(student=student))
    found = {problem.where: str(problem) for problem in caught.value.problems}
    assert word in found[f"student.{where}"]


def test_initial_values_that_weights_replace_are_refused(make_content, tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(build_model("resnet18", 4).state_dict(), path)
    student = {
        "model": "resnet18",
        "weights": {"source": str(path)},
        "options": {"zero_init_residual": True},
    }
    with pytest.raises(BadInputError, match=r"zero_init_residual: .*the weights replace"):
        parse_spec(make_content(student=student))
