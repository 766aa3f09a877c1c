"""Optimizers against other libraries, their gate, their parameter groups and their state."""

import copy

import pytest
import timm
import timm.optim
import torch
from support.host_reads import host_reads
from torch import nn
from torchvision.models import VisionTransformer

from service.distillation.task import Trainee
from service.models.build import build_model
from service.spec.optimization import AdamW, Lamb, Lars, Sgd
from service.training.optimizers import build_optimizer, set_learning_rate
from service.training.parameter_groups import layer_scales

SECTIONS = [
    Sgd(learning_rate=0.1, nesterov=True, decay_norms_and_biases=False),
    AdamW(kind="adamw", learning_rate=0.01),
    Lars(kind="lars", learning_rate=2.0, weight_decay=0.01, nesterov=True),
    Lamb(kind="lamb", learning_rate=0.01, max_trust_ratio=1.5),
]


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))


@pytest.fixture
def model():
    network = small_model()
    network(torch.zeros(2, 3, 5, 5))
    return network


def reference_groups(network):
    matrices = [p for p in network.parameters() if p.ndim > 1]
    return matrices, [p for p in network.parameters() if p.ndim <= 1]


def reference(section, network):
    """The same optimizer of timm or, not fused, of torch."""
    matrices, vectors = reference_groups(network)
    groups = [
        {"params": matrices, "weight_decay": section.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    rate = section.learning_rate
    if section.kind == "lars":
        return timm.optim.Lars(groups, lr=rate, momentum=0.9, nesterov=True, eps=0.0)
    if section.kind == "lamb":
        return timm.optim.Lamb(groups, lr=rate, max_grad_norm=None, foreach=False)
    if section.kind == "adamw":
        return torch.optim.AdamW(groups, lr=rate, foreach=False)
    return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True, foreach=False)


def draw_gradients(networks, step):
    for network in networks:
        generator = torch.Generator().manual_seed(step)
        for parameter in network.parameters():
            gradient = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = gradient.to(parameter.dtype)


@pytest.mark.parametrize("section", [*SECTIONS[:3], Lamb(kind="lamb")], ids=lambda s: s.kind)
def test_updates_are_those_of_other_libraries_in_float64(section, model):
    theirs = copy.deepcopy(model).double()
    optimizers = build_optimizer(model, section), reference(section, theirs)
    before = [p.detach().clone() for p in model.parameters()]
    for step in range(4):
        draw_gradients([model, theirs], step)
        for optimizer in optimizers:
            optimizer.step()
    for first, ours, expected in zip(before, model.parameters(), theirs.parameters(), strict=True):
        assert not torch.equal(first, ours)
        torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-6)


def test_trust_ratio_of_lamb_is_limited():
    """The first update of LAMB without decay is the sign of the gradient, here of norm 1."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 5.0)
    for limit, expected in ((None, 5.0 - 0.1 * 5.0), (2.0, 5.0 - 0.1 * 2.0)):
        changed = copy.deepcopy(network)
        changed.weight.grad = torch.tensor([[3.0]])
        section = Lamb(kind="lamb", learning_rate=0.1, weight_decay=0, max_trust_ratio=limit)
        build_optimizer(changed, section).step()
        assert changed.weight.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.kind)
@pytest.mark.parametrize("num_steps_before", [0, 2])
def test_step_with_found_inf_changes_no_bit(section, num_steps_before, model):
    plain = copy.deepcopy(model)
    gated, ungated = build_optimizer(model, section), build_optimizer(plain, section)
    for step in range(num_steps_before):
        draw_gradients([model, plain], step)
        gated.step()
        ungated.step()
    before = copy.deepcopy(model.state_dict())
    draw_gradients([model], 7)
    next(model.parameters()).grad.fill_(float("nan"))
    gated.found_inf = torch.tensor(1.0)
    gated.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    # The next step is that of an optimizer which has not seen the gradient.
    gated.found_inf = torch.tensor(0.0)
    draw_gradients([model, plain], 8)
    gated.step()
    ungated.step()
    for ours, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.kind)
def test_state_is_restored_and_parameters_without_gradient_stay(section, model):
    """The classifier gets no gradient before the state is saved."""
    optimizer = build_optimizer(model, section)
    draw_gradients([model], 0)
    classifier = model[3].weight
    before, classifier.grad = classifier.detach().clone(), None
    optimizer.step()
    assert torch.equal(classifier, before)
    other = copy.deepcopy(model)
    restored = build_optimizer(other, section)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in (1, 2):
        draw_gradients([model, other], step)
        optimizer.step()
        restored.step()
    for ours, expected in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, expected)


def test_a_step_reads_nothing_on_the_host(model):
    for section in SECTIONS[2:]:
        optimizer = build_optimizer(model, section)
        optimizer.found_inf = torch.tensor(0.0)
        draw_gradients([model], 0)
        with host_reads() as reads:
            optimizer.step()
        assert reads == []


def timm_vit():
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=3)


def torchvision_vit():
    return VisionTransformer(32, 16, 3, 3, 192, 768, num_classes=3)


def test_layer_decay_is_that_of_timm():
    network = timm_vit()
    section = AdamW(kind="adamw", layer_decay=0.5)
    optimizer = build_optimizer(network, section)
    ours = {p: group for group in optimizer.param_groups for p in group["params"]}
    theirs = timm.optim.param_groups_layer_decay(network, 0.05, layer_decay=0.5)
    for group in theirs:
        for parameter in group["params"]:
            assert ours[parameter]["lr_scale"] == pytest.approx(group["lr_scale"])
    set_learning_rate(optimizer, 0.8)
    assert ours[network.head.weight]["lr"] == 0.8
    assert ours[network.patch_embed.proj.weight]["lr"] == pytest.approx(0.8 * 0.5**4)


def test_parameters_of_losses_have_the_full_rate():
    objective = nn.Linear(2, 2)
    trainee = Trainee(torchvision_vit(), objective)
    optimizer = build_optimizer(trainee, AdamW(kind="adamw", layer_decay=0.5))
    scales = {p: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert scales.keys() == set(trainee.parameters())
    assert scales[objective.weight] == scales[objective.bias] == 1.0
    assert scales[trainee.student.conv_proj.weight] == pytest.approx(0.5**4)


def test_torchvision_vit_has_the_shares_of_timms():
    """The same network with other names: as many parameters have each share."""
    totals = []
    for network in (torchvision_vit(), timm_vit()):
        scales, total = layer_scales(network, 0.5), {}
        for name, parameter in network.named_parameters():
            total[scales[name]] = total.get(scales[name], 0) + parameter.numel()
        totals.append(total)
    assert totals[0] == totals[1]


def test_layers_of_torchvisions_own_builder_are_known():
    with torch.device("meta"):
        scales = layer_scales(build_model("vit_b_32", 3), 0.5)
    assert scales["heads.head.bias"] == 1.0
    assert scales["conv_proj.weight"] == pytest.approx(0.5**13)
