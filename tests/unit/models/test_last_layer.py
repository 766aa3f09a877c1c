"""The last layer in float32 under bfloat16 autocast, and what the batch size can still change."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from service.models.build import build_model
from service.models.last_layer import (
    check_classifier,
    classifier_weights,
    keep_last_layer_in_float32,
)
from service.spec.errors import BadInputError

# Stated in the docstring of evaluation.batch_size: shares of the largest logit.
BOUNDS = {"float32": 1e-5, "bfloat16": 0.01}


def converted(name, size=32, num_classes=7):
    torch.manual_seed(0)
    model = build_model(name, num_classes).eval()
    keep_last_layer_in_float32(model, size)
    return model


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "fc"),
        ("mobilenet_v3_small", "classifier.3"),
        ("squeezenet1_1", "classifier.1"),
        ("cifar:tiny_cnn", "fc"),
        ("cifar:vgg8", "fc"),
        ("cifar:mobilenet_v2", "fc"),
        ("cifar:shufflenet_v1", "fc"),
        ("cifar:shufflenet_v2", "fc"),
        ("cifar:resnet50", "fc"),
        ("imagenet:mobilenet_v1", "fc"),
    ],
)
def test_logits_are_those_of_a_float32_layer_on_bfloat16_features(name, layer):
    model = converted(name)
    found = []
    # A copy: squeezenet's ReLU changes the output in place.
    model.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: found.append((module, inputs[0], output.clone()))
    )
    with torch.no_grad(), bfloat16():
        logits = model(torch.randn(3, 3, 32, 32))
    assert logits.dtype == torch.float32
    module, features, output = found[0]
    assert features.dtype == torch.bfloat16
    function = F.conv2d if isinstance(module, nn.Conv2d) else F.linear
    weights = (module.weight.double(), module.bias.double())
    expected = function(features.double(), *weights)
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-6)


def test_nothing_else_of_the_model_changes():
    torch.manual_seed(0)
    model = build_model("resnet18", 7)
    state, reference = copy.deepcopy(model.state_dict()), copy.deepcopy(model).eval()
    keep_last_layer_in_float32(model, 32)
    assert model.training
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), reference(images))


def test_copy_has_a_float32_layer_of_its_own():
    model = converted("cifar:tiny_cnn")
    copied = copy.deepcopy(model)
    nn.init.zeros_(copied.fc.weight)
    nn.init.zeros_(copied.fc.bias)
    with torch.no_grad(), bfloat16():
        assert copied(torch.randn(2, 3, 16, 16)).abs().max() == 0
        logits = model(torch.randn(2, 3, 16, 16))
    assert logits.abs().max() > 0
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_batch_size_changes_logits_by_no_more_than_stated(precision):
    model = converted("cifar:resnet8x4").to(memory_format=torch.channels_last)
    images = torch.randn(101, 3, 32, 32).to(memory_format=torch.channels_last)
    with (
        torch.no_grad(),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        reference = model(images)
        for size in (1, 2, 7, 16, 64):
            logits = torch.cat([model(part) for part in images.split(size)])
            bound = BOUNDS[precision] * reference.abs().max()
            assert (logits - reference).abs().max() <= bound
    # As computed in bfloat16, the last layer alone would be off by more than float32's bound.
    rounded = reference.bfloat16().float()
    assert (rounded - reference).abs().max() > BOUNDS["float32"] * reference.abs().max()


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "fc"), ("squeezenet1_1", "classifier.1")])
def test_classifier_has_a_row_of_weights_per_class(name, layer):
    """Also that of a convolution, and on the meta device, where only its shape is known."""
    model = build_model(name, 7)
    weights = model.get_submodule(layer).weight
    found = classifier_weights(model, 7, 32)
    assert torch.equal(found, weights.reshape(7, -1))
    assert not found.requires_grad
    check_classifier(name, model.to("meta"), 7, 32)


def test_network_without_a_row_per_class_is_refused():
    """Its last layer with parameters is a normalization of another size than the classes."""
    model = nn.Sequential(nn.Conv2d(3, 14, 3), nn.BatchNorm2d(14), nn.Flatten())
    assert classifier_weights(model, 7, 4) is None
    with pytest.raises(BadInputError, match=r"teacher\.model: timm:x does not end in a layer"):
        check_classifier("timm:x", model, 7, 4)
