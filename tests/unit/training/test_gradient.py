"""The gradient of a step against that of the mean loss over its whole batch."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from data_pipeline.batches import Batch
from data_pipeline.compiled.counter_rng import REPEAT_SHIFT
from service.distillation.losses.base import Context
from service.distillation.objective import Objective
from service.distillation.pixels import PixelNormalizer
from service.distillation.task import DistillationTask, Trainee
from service.run.progress import Progress
from service.spec.data_sections import Normalization
from service.spec.loading import parse_spec
from service.spec.losses import default_losses
from service.training.batchnorm import RunningStatistics
from service.training.data import StepShare
from service.training.distributed import World
from service.training.gradient import GradientComputer
from service.training.metrics import IntervalMetrics
from service.training.passes import Passes
from service.training.teacher_logits import TeacherLogits

CPU = torch.device("cpu")
UNIT = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Network(nn.Module):
    """A linear classifier of 4 x 4 pixels, with dropout if it is asked for."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(5)
        self.dropout, self.fc = nn.Dropout(dropout), nn.Linear(48, 4)

    def forward(self, images):
        return self.fc(self.dropout(images.flatten(1)))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (20, 4, 4, 3), dtype=torch.uint8, generator=generator)
    return Batch(pixels, torch.arange(20) % 4, np.arange(20))


def computer(make_content, world=None, dropout=0.0, num_per_pass=1, **sections):
    sections.setdefault("training", {"global_batch_size": 24, "micro_batch_size": 8})
    spec = parse_spec(make_content(resources={"num_workers": 2}, **sections))
    world = world or World(0, 1, CPU, 1)
    network = Network(dropout).train()
    objective = Objective(default_losses(has_teacher=False), Context(num_classes=4, num_epochs=2))
    task = DistillationTask(Trainee(network, objective), PixelNormalizer(UNIT), None)
    metrics = IntervalMetrics(world, objective.telemetry)
    statistics = RunningStatistics(network, world.size)
    passes = Passes(draws=dropout > 0, size=num_per_pass)
    logits = TeacherLogits(task)
    gradient = GradientComputer(spec, world, task, logits, statistics, metrics, passes)
    return gradient, network, metrics


def mean_gradient(batch):
    """Of the mean cross-entropy over all images at once."""
    network = Network()
    images = ((batch.images.double() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2).float()
    loss = nn.functional.cross_entropy(network(images), batch.labels)
    loss.backward()
    return network.fc.weight.grad, loss.item()


def part_of(batch, part):
    return Batch(batch.images[part], batch.labels[part], batch.indices[part])


def test_repeats_of_a_pair_have_mixtures_of_their_own(make_content, batch):
    samples, repeats = np.arange(20) % 10, np.arange(20) // 10
    told_apart = batch._replace(indices=samples, repeats=repeats)
    # Samples of other numbers, which are the draws.
    others = batch._replace(indices=samples + (repeats << REPEAT_SHIFT))
    gradients = []
    for one in (told_apart, others, batch._replace(indices=samples)):
        mixing = {"mixing": {"mixup_alpha": 1.0}}
        gradient, network, _ = computer(make_content, augmentation=mixing)
        gradient.compute(one, StepShare(20, 20, 0), Progress())
        gradients.append(network.fc.weight.grad)
    assert torch.equal(gradients[0], gradients[1])
    assert not torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize("num_per_pass", [1, 2, 3])
def test_gradient_of_unequal_micro_batches_is_that_of_the_mean_loss(
    make_content, batch, num_per_pass
):
    gradient, network, metrics = computer(make_content, num_per_pass=num_per_pass)
    found = gradient.compute(batch, StepShare(20, 20, 0), Progress(step=3, epoch=0))
    expected, loss = mean_gradient(batch)
    torch.testing.assert_close(network.fc.weight.grad, expected)
    assert found.loss.item() == pytest.approx(loss, rel=1e-5)
    metrics.step_done(20, torch.tensor(False))
    values = metrics.read(found.output)
    assert values["train/loss"] == pytest.approx(loss, rel=1e-5)
    # The last micro-batch has the 4 images that are left over.
    assert len(found.output.inputs.student_logits) == 4


def test_mean_over_two_workers_is_the_gradient_of_the_mean_loss(make_content, batch):
    shares = [(slice(0, 16), StepShare(16, 20, 0)), (slice(16, 20), StepShare(4, 20, 2))]
    gradients, losses = [], []
    for rank, (part, share) in enumerate(shares):
        gradient, network, _ = computer(make_content, World(rank, 2, CPU, 1))
        found = gradient.compute(part_of(batch, part), share, Progress())
        gradients.append(network.fc.weight.grad)
        losses.append(found.loss.item())
    expected, loss = mean_gradient(batch)
    torch.testing.assert_close(torch.stack(gradients).mean(0), expected)
    assert sum(losses) / 2 == pytest.approx(loss, rel=1e-5)


def test_images_of_a_worker_without_a_share_do_not_count(make_content, batch):
    gradient, network, _ = computer(make_content, World(1, 2, CPU, 1))
    found = gradient.compute(part_of(batch, slice(0, 8)), StepShare(0, 8, 1), Progress())
    assert torch.equal(network.fc.weight.grad, torch.zeros_like(network.fc.weight))
    assert found.loss.item() == 0.0


def test_dropout_depends_on_the_place_in_the_global_batch_only(make_content, batch):
    """Two workers draw what one draws; every step and every seed draws anew."""

    def gradient_of(share, part, step=0, seed=7):
        gradient, network, _ = computer(make_content, dropout=0.5, seed=seed)
        gradient.compute(part_of(batch, part), share, Progress(step=step))
        return network.fc.weight.grad

    whole = gradient_of(StepShare(16, 16, 0), slice(0, 16))
    halves = [
        gradient_of(StepShare(8, 16, 0), slice(0, 8)),
        gradient_of(StepShare(8, 16, 1), slice(8, 16)),
    ]
    torch.testing.assert_close(halves[0] + halves[1], whole)
    again = gradient_of(StepShare(8, 16, 0), slice(8, 16))
    assert not torch.allclose(again, halves[1])
    assert not torch.allclose(gradient_of(StepShare(16, 16, 0), slice(0, 16), step=1), whole)
    assert not torch.allclose(gradient_of(StepShare(16, 16, 0), slice(0, 16), seed=8), whole)


def test_gradient_of_a_loss_that_is_not_finite_is_nan_everywhere(make_content, batch):
    gradient, network, _ = computer(make_content)
    with torch.no_grad():
        network.fc.bias[0] = torch.inf
    gradient.compute(batch, StepShare(20, 20, 0), Progress())
    assert torch.isnan(network.fc.bias.grad).all()


def test_mixed_images_and_labels_are_trained_on(make_content, batch):
    mixing = {"mixup_alpha": 1.0, "probability": 1.0}
    gradient, network, _ = computer(make_content, augmentation={"mixing": mixing})
    gradient.compute(batch, StepShare(20, 20, 0), Progress())
    mixed = network.fc.weight.grad
    assert not torch.allclose(mixed, mean_gradient(batch)[0], rtol=1e-2)


def test_gradients_are_exchanged_with_the_last_micro_batch_only(
    make_content, batch, tmp_path, monkeypatch
):
    """The real DDP, with one process; each context without an exchange is counted."""
    contexts, no_sync = [], DistributedDataParallel.no_sync

    def counted(model):
        contexts.append(model)
        return no_sync(model)

    monkeypatch.setattr(DistributedDataParallel, "no_sync", counted)
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        gradient, network, _ = computer(make_content)
        exchanged = []
        wrapped = DistributedDataParallel(gradient._task.trainee)
        wrapped.register_comm_hook(None, lambda _, bucket: _exchange(bucket, exchanged))
        gradient._task.trainee = wrapped
        gradient.compute(batch, StepShare(20, 20, 0), Progress())
    finally:
        dist.destroy_process_group()
    assert len(contexts) == 2
    assert len(exchanged) == 1
    torch.testing.assert_close(network.fc.weight.grad, mean_gradient(batch)[0])


def _exchange(bucket, exchanged):
    exchanged.append(bucket.index())
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future
