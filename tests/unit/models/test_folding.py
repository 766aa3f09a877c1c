"""A folded network is the same function; the network itself stays as it is."""

import pytest
import torch
from torch import nn

from service.models.build import build_model
from service.models.folding import folded

FAMILIES = [
    ("resnet18", 64),
    ("mobilenet_v3_small", 64),
    ("shufflenet_v2_x0_5", 64),
    ("regnet_y_400mf", 64),
    ("mnasnet0_5", 64),
    ("imagenet:mobilenet_v1", 64),
    ("timm:test_resnet", 64),
    ("timm:test_efficientnet", 64),
    ("cifar:resnet20", 32),
    ("cifar:vgg8", 32),
    ("cifar:vgg8", 64),
    ("cifar:shufflenet_v1", 32),
]


def randomized(model):
    """In float64, with statistics as if it were trained."""
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model.double().eval()


def num_norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(("name", "size"), FAMILIES)
def test_folded_network_has_the_same_logits(name, size):
    model = randomized(build_model(name, 7))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    network = folded(model)
    assert num_norms(model) > num_norms(network) == 0
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.inference_mode():
        expected, found = model(images), network(images)
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_norm_in_front_of_the_convolution_stays():
    """As those of residual networks with pre-activation."""
    model = randomized(build_model("cifar:wrn_16_1", 7))
    network, images = folded(model), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert 0 < num_norms(network) < num_norms(model)
    torch.testing.assert_close(network(images), model(images), rtol=1e-9, atol=1e-12)


class TwoUses(nn.Module):
    """``kind``: what is used twice."""

    def __init__(self, kind):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norm, self.other, self.kind = nn.BatchNorm2d(3), nn.BatchNorm2d(3), kind

    def forward(self, images):
        hidden = self.first(images)
        if self.kind == "output":
            return self.norm(hidden) + hidden
        second = self.second if self.kind == "norm" else self.first
        return self.norm(hidden) + (self.norm if self.kind == "norm" else self.other)(
            second(images)
        )


@pytest.mark.parametrize("kind", ["output", "norm", "convolution"])
def test_what_is_used_twice_is_not_folded(kind):
    model = randomized(TwoUses(kind))
    assert folded(model) is None


def test_convolution_that_computes_its_weights_is_not_folded():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    torch.nn.utils.parametrizations.weight_norm(model[0])
    assert folded(randomized(model)) is None


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, images):
        return self.layers(images) if images.sum() > 0 else images


def test_network_that_branches_is_not_traced():
    assert folded(Branching().eval()) is None
