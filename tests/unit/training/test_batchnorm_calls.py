"""BatchNorm layers that a forward pass calls several times, or that average all batches alike."""

import copy
import io
from itertools import pairwise

import pytest
import torch
from support.host_reads import host_reads
from torch import nn

from service.models.activation_checkpointing import checkpoint_blocks
from service.models.build import build_model
from service.models.last_layer import keep_last_layer_in_float32
from service.training.batchnorm import RunningStatistics

SIZES = (6, 4, 2)
WEIGHTS = [size / sum(SIZES) for size in SIZES]


class Block(nn.Module):
    """Two calls of one layer, and one of another."""

    def __init__(self, momentum):
        super().__init__()
        self.shared = nn.BatchNorm1d(3, momentum=momentum)
        self.once = nn.BatchNorm1d(3, momentum=0.3)
        self.linear = nn.Linear(3, 3)

    def forward(self, inputs):
        hidden = self.shared(self.linear(inputs).relu())
        return self.once(self.shared(self.linear(hidden).sigmoid()))


def make_model(momentum):
    torch.manual_seed(0)
    # A stack of blocks, for checkpoints.
    return nn.Sequential(nn.Sequential(Block(momentum), Block(momentum)), nn.Linear(3, 2)).double()


def micro_batches(seed):
    generator = torch.Generator().manual_seed(seed)
    return [2 + torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in SIZES]


def floating_buffers(model):
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def train_step(statistics, model, parts, passes):
    """The gradients and the statistics that a step leaves."""
    model.zero_grad()
    with statistics.step(SIZES, WEIGHTS) as running:
        for in_pass in passes:
            with running.forward_pass(in_pass):
                outputs = model(torch.cat([parts[i] for i in in_pass]))
            losses = [
                WEIGHTS[i] * one.square().sum()
                for i, one in zip(in_pass, outputs.split([SIZES[i] for i in in_pass]), strict=True)
            ]
            sum(losses).backward()


def train_by_hand(model, parts):
    """The same by plain torch: each micro-batch goes through a copy of the network by itself."""
    means, model_grads = [0.0] * len(floating_buffers(model)), []
    for part, weight in zip(parts, WEIGHTS, strict=True):
        copied = copy.deepcopy(model)
        copied.zero_grad()
        (weight * copied(part).square().sum()).backward()
        model_grads.append([one.grad for one in copied.parameters()])
        means = [
            mean + weight * buffer
            for mean, buffer in zip(means, floating_buffers(copied), strict=True)
        ]
    for parameter, *parts_of_it in zip(model.parameters(), *model_grads, strict=True):
        parameter.grad = sum(parts_of_it)
    for buffer, mean in zip(floating_buffers(model), means, strict=True):
        buffer.copy_(mean)
    for counter, now in zip(model.buffers(), copied.buffers(), strict=True):
        if not counter.is_floating_point():
            counter.copy_(now)


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.0, 0.1, 1.0])
@pytest.mark.parametrize("passes", [[range(3)], [range(2), range(2, 3)], [range(1), range(1, 3)]])
def test_steps_equal_a_loop_over_micro_batches(momentum, passes, is_checkpointed):
    """Gradients, statistics and counters of three steps, in float64."""
    by_hand = make_model(momentum)
    model = copy.deepcopy(by_hand)
    if is_checkpointed:
        checkpoint_blocks(model)
    statistics = RunningStatistics(model, 1)
    for seed in range(3):
        train_by_hand(by_hand, micro_batches(seed))
        train_step(statistics, model, micro_batches(seed), passes)
        for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
        for ours, theirs in zip(model.buffers(), by_hand.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert not torch.equal(floating_buffers(model)[0], torch.zeros(3).double()) or momentum == 0.0


def test_a_cumulative_average_is_the_mean_of_all_batches():
    """Of equal micro-batches, as torch documents it; none is read on the host."""
    model = nn.BatchNorm1d(3, momentum=None)
    statistics = RunningStatistics(model, 1)
    images = torch.randn(12, 8, 3, generator=torch.Generator().manual_seed(0))
    with host_reads() as reads:
        # Steps of one micro-batch, in which a layer may work by itself, too.
        for start, stop in pairwise([0, 2, 6, 7, 12]):
            count = stop - start
            step = statistics.step([8] * count, [1 / count] * count)
            with step as running, running.forward_pass(range(count)):
                model(images[start:stop].flatten(0, 1))
    assert reads == []
    means = torch.stack([images[a:b].mean((0, 1)) for a, b in pairwise([0, 2, 6, 7, 12])])
    torch.testing.assert_close(model.running_mean, means.mean(0))
    assert model.num_batches_tracked.item() == 4


def test_two_views_are_two_updates_of_every_call():
    torch.manual_seed(0)
    by_hand = make_model(0.2)
    model, views = copy.deepcopy(by_hand), [micro_batches(seed) for seed in (1, 2)]
    for parts in views:
        train_by_hand(by_hand, parts)
    step = RunningStatistics(model, 1, num_views=2).step(SIZES, WEIGHTS)
    with step as running, running.forward_pass(range(3)):
        model(torch.cat([part for parts in views for part in parts]))
    for ours, theirs in zip(model.buffers(), by_hand.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded])
def test_a_network_whose_classes_were_changed_can_be_copied_and_saved(copied):
    """Its blocks and last layer, which a copy keeps, and BatchNorm, whose copies are plain."""
    torch.manual_seed(0)
    model = build_model("cifar:resnet8", 4)
    keep_last_layer_in_float32(model, 8)
    checkpoint_blocks(model)
    images = torch.randn(6, 3, 8, 8)
    step = RunningStatistics(model, 1).step([3, 3], [0.5, 0.5])
    with step as running, running.forward_pass(range(2)):
        model(images)
    found = copied(model)
    assert all(map(torch.equal, found.state_dict().values(), model.state_dict().values()))
    kinds = {type(one) for one in found.modules() if isinstance(one, nn.BatchNorm2d)}
    assert kinds == {nn.BatchNorm2d}
    others = [
        (type(ours), type(theirs))
        for ours, theirs in zip(found.modules(), model.modules(), strict=True)
        if not isinstance(ours, nn.BatchNorm2d)
    ]
    assert all(ours is theirs for ours, theirs in others)
    before = model.state_dict()["bn1.running_mean"].clone()
    found.train()(images)
    assert torch.equal(model.state_dict()["bn1.running_mean"], before)
