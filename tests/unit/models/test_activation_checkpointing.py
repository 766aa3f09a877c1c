"""A checkpointed network against a plain one: gradients, statistics, copies and memory."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from service.models.activation_checkpointing import blocks_of, checkpoint_blocks
from service.models.activation_memory import saved_bytes
from service.models.build import build_model, build_on_meta_device
from service.run.execution import Execution
from service.spec.loading import parse_spec
from service.training.batchnorm import RunningStatistics
from service.training.factory import build_task

NUM_CLASSES = 4
NETWORKS = [
    ("cifar:resnet20", {}),
    # Dropout and stochastic depth draw random numbers.
    ("timm:efficientnet_lite0", {"drop_path_rate": 0.5, "drop_rate": 0.5}),
    ("timm:vit_tiny_patch16_224", {"drop_path_rate": 0.5}),
]


def build(name, options):
    torch.manual_seed(0)
    if "vit" in name:
        name = name.removeprefix("timm:")
        return timm.create_model(name, num_classes=NUM_CLASSES, img_size=32, depth=3, **options)
    return build_model(name, NUM_CLASSES, options=options)


def train_once(model, images):
    torch.manual_seed(5)
    model(images).square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=str)
def test_gradient_and_statistics_are_those_of_a_plain_pass(name, options):
    plain = build(name, options)
    checkpointed = copy.deepcopy(plain)
    checkpoint_blocks(checkpointed)
    assert list(checkpointed.state_dict()) == list(plain.state_dict())
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected, found = train_once(plain, images), train_once(checkpointed, images)
    assert any("running" in key for key in plain.state_dict()) == ("vit" not in name)
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(checkpointed.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def count_calls(model):
    """How often the first convolution of each block computes."""
    calls = []
    for block in blocks_of(model):
        convolution = next(m for m in block.modules() if isinstance(m, nn.Conv2d))
        convolution.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_blocks_are_computed_again_in_training_alone():
    model = build_model("cifar:resnet20", NUM_CLASSES)
    checkpoint_blocks(model)
    calls, images = count_calls(model), torch.zeros(2, 3, 8, 8)
    model(images).sum().backward()
    assert len(calls) == 2 * 9
    calls.clear()
    model.eval()(images).sum().backward()
    with torch.no_grad():
        model.train()(images)
    assert len(calls) == 2 * 9


def test_an_average_is_a_network_of_its_own():
    """A copy's blocks have the copy's weights."""
    model = build_model("cifar:resnet8", NUM_CLASSES)
    checkpoint_blocks(model)
    average = AveragedModel(model)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before = average.module.eval()(images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(average.module(images), before)
    assert not before.eq(0).all()


def test_statistics_of_micro_batches_are_those_of_a_plain_pass():
    """Three micro-batches, of which two share a pass."""
    models = [build("cifar:resnet8", {}) for _ in range(2)]
    checkpoint_blocks(models[1])
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for model in models:
        with RunningStatistics(model, 1).step([2, 2, 2], [1 / 3] * 3) as running:
            for micro_batches in (range(2), range(2, 3)):
                part = images[2 * micro_batches.start : 2 * micro_batches.stop]
                with running.forward_pass(micro_batches):
                    logits = model(part)
                logits.square().sum().backward()
    for theirs, ours in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-6)
    for theirs, ours in zip(*(model.buffers() for model in models), strict=True):
        assert torch.equal(ours, theirs)


def test_a_compiled_network_updates_statistics_once():
    """The compiler repeats the passes itself; this one of its backends needs no C++ compiler."""
    plain = build("cifar:resnet8", {})
    checkpointed = copy.deepcopy(plain)
    checkpoint_blocks(checkpointed)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = train_once(plain, images)
    compiled = torch.compile(checkpointed.forward, backend="aot_eager", dynamic=False)
    compiled(images).square().sum().backward()
    for name, parameter in checkpointed.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(checkpointed.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_bfloat16_is_repeated_in_bfloat16():
    plain = build("cifar:resnet20", {})
    checkpointed = copy.deepcopy(plain)
    checkpoint_blocks(checkpointed)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    gradients = []
    for model in (plain, checkpointed):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(images).float().sum()
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("resnet18", "BasicBlock", 8),
        ("vit_b_32", "EncoderBlock", 12),
        ("timm:vit_tiny_patch16_224", "Block", 12),
        ("timm:convnext_atto", "ConvNeXtBlock", 12),
        ("cifar:wrn_16_2", "WideBlock", 6),
    ],
)
def test_blocks_are_those_of_the_papers(name, kind, count):
    network = build_on_meta_device(name, NUM_CLASSES)
    assert [type(block).__name__ for block in blocks_of(network)] == [kind] * count


def test_training_is_checkpointed_where_the_spec_says_so(make_content):
    training = {"checkpoint_activations": True}
    spec = parse_spec(make_content(student={"model": "cifar:resnet20"}, training=training))
    student = build_task(spec, torch.device("cpu"), Execution.plain(spec)).trainee.student
    calls = count_calls(student)
    student.train()(torch.zeros(2, 3, 8, 8)).sum().backward()
    assert len(calls) == 2 * 9


class Block(nn.Module):
    """Keeps its input and two hidden tensors of its size."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        # Modules without modules are taken for single layers.
        self.inner = nn.Identity()

    def forward(self, values):
        return ((values * self.scale).sigmoid()).tanh()


def test_memory_is_that_of_the_inputs_and_one_block():
    """Of 5 blocks, on [16, 100] float32."""
    network = nn.Sequential(nn.Sequential(*[Block() for _ in range(5)]))
    images, size = torch.zeros(16, 100, requires_grad=True), 16 * 100 * 4
    plain = saved_bytes(network, images, is_checkpointed=False)
    checkpointed = saved_bytes(network, images, is_checkpointed=True)
    scales = 5 * 4
    # Each block: its input (the tanh of the one before), and the results of sigmoid and tanh.
    assert plain == pytest.approx((1 + 2 * 5) * size + scales, abs=size // 100)
    assert checkpointed == pytest.approx((5 + 3) * size + scales, abs=size // 100)
