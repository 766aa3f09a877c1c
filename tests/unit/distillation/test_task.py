"""The loss of a micro-batch from its pixels: who gets which view, precision, gradients, parts."""

import pytest
import torch
from torch import nn

from service.distillation.losses import LOSSES
from service.distillation.losses.base import Context, Loss
from service.distillation.objective import Objective
from service.distillation.pixels import FrozenTeacher, PixelNormalizer
from service.distillation.task import DistillationTask, MicroBatch, Trainee
from service.spec.data_sections import Normalization
from service.spec.losses import Losses

NORMALIZATION = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))
OTHER = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


class Linear(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.fc = nn.Linear(48, 5)

    def forward(self, images):
        return self.fc(images.flatten(1))


def make_pixels(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (6, 4, 4, 3), dtype=torch.uint8, generator=generator)


def make_task(losses, *, has_teacher=True, label_smoothing=0.0, dtype=None):
    objective = Objective(Losses(**losses), Context(5, 10, label_smoothing))
    return DistillationTask(
        Trainee(Linear(1), objective, dtype),
        PixelNormalizer(NORMALIZATION),
        FrozenTeacher(Linear(2), OTHER) if has_teacher else None,
        autocast_dtype=dtype,
    )


def logits_of(network, normalization, pixels):
    """In float64, by hand."""
    mean = torch.tensor(normalization.mean, dtype=torch.float64)
    std = torch.tensor(normalization.std, dtype=torch.float64)
    images = ((pixels.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    return images.flatten(1) @ network.fc.weight.double().T + network.fc.bias.double()


def both_logits(task, pixels):
    """The teacher's and the student's."""
    teacher = logits_of(task.teacher.model, OTHER, pixels)
    return teacher, logits_of(task.trainee.student, NORMALIZATION, pixels)


def kd(u, v, temperature):
    """T^2 KL, the mean over samples."""
    p, q = (torch.softmax(rows / temperature, dim=1) for rows in (u, v))
    return temperature**2 * (p * (p / q).log()).sum(1).mean()


def test_both_networks_see_the_pixels_with_their_own_normalization():
    task, pixels = make_task({"ce": {}, "kd": {}}), make_pixels(0)
    inputs = task([pixels], MicroBatch(LABELS, epoch=0)).inputs
    teacher, student = both_logits(task, pixels)
    torch.testing.assert_close(inputs.teacher_logits.double(), teacher, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(inputs.student_logits.double(), student, rtol=1e-4, atol=1e-5)
    assert inputs.strong_student_logits is None
    assert inputs.strong_teacher_logits is None
    assert torch.equal(inputs.targets, LABELS)


@pytest.mark.parametrize(("dtkd", "weight"), [(None, 0.5), ({"weight": 0}, 0.75)])
def test_gradient_is_that_of_the_weighted_sum(dtkd, weight):
    """A loss of weight 0 has none; half of the warm-up is over."""
    losses = {"ce": {"weight": 0.5}, "kd": {"weight": weight, "temperature": 3}}
    task = make_task(losses | {"dtkd": dtkd, "warmup_epochs": 4})
    pixels = make_pixels(0)
    output = task([pixels], MicroBatch(LABELS, epoch=1))
    output.loss.backward()
    found = task.trainee.student.fc.weight.grad.clone()

    task.trainee.zero_grad()
    u, v = both_logits(task, pixels)
    ce = -torch.log_softmax(v, dim=1).gather(1, LABELS[:, None]).mean()
    expected = 0.5 * ce + 0.5 * weight * kd(u, v, 3.0)
    expected.backward()
    torch.testing.assert_close(found, task.trainee.student.fc.weight.grad, rtol=1e-4, atol=1e-6)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert output.parts.keys() == {"loss", "ce", "kd"}
    assert not any(part.requires_grad for part in output.parts.values())


def test_outputs_keep_no_graph():
    output = make_task({"ce": {}, "kd": {}})([make_pixels(0)], MicroBatch(LABELS, epoch=0))
    assert output.loss.requires_grad
    assert not output.inputs.student_logits.requires_grad
    assert not output.inputs.teacher_logits.requires_grad


def test_strong_view_goes_through_both_networks():
    task = make_task({"ce": {"views": "both"}, "crld": {}})
    weak, strong = make_pixels(0), make_pixels(1)
    output = task([weak, strong], MicroBatch(LABELS, epoch=9))
    inputs, close = output.inputs, {"rtol": 1e-4, "atol": 1e-5}
    teacher, student = both_logits(task, strong)
    torch.testing.assert_close(inputs.strong_teacher_logits.double(), teacher, **close)
    torch.testing.assert_close(inputs.strong_student_logits.double(), student, **close)
    torch.testing.assert_close(inputs.student_logits.double(), both_logits(task, weak)[1], **close)
    views = [both_logits(task, view)[1] for view in (weak, strong)]
    ce = sum(nn.functional.cross_entropy(logits, LABELS).item() for logits in views)
    assert output.parts["ce"].item() == pytest.approx(ce, rel=1e-5)
    assert not inputs.strong_student_logits.requires_grad


def test_teacher_sees_the_strong_view_only_where_a_loss_compares_it():
    task, calls = make_task({"ce": {"views": "both"}, "kd": {}}), []
    task.teacher.register_forward_hook(lambda *_: calls.append(1))
    inputs = task([make_pixels(0), make_pixels(1)], MicroBatch(LABELS, epoch=9)).inputs
    assert len(calls) == 1
    assert inputs.strong_teacher_logits is None
    assert inputs.strong_student_logits is not None


def test_label_smoothing_and_precision_are_those_of_the_task():
    task = make_task({"ce": {}}, has_teacher=False, label_smoothing=0.3, dtype=torch.bfloat16)
    pixels = make_pixels(0)
    output = task([pixels], MicroBatch(LABELS, epoch=0))
    logits = output.inputs.student_logits
    assert logits.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    expected = nn.functional.cross_entropy(logits.double(), LABELS, label_smoothing=0.3)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    exact = logits_of(task.trainee.student, NORMALIZATION, pixels)
    assert not torch.equal(exact.float(), logits.float())
    assert output.inputs.teacher_logits is None


def test_teacher_has_the_precision_of_the_task():
    task = make_task({"kd": {}}, dtype=torch.bfloat16)
    inputs = task([make_pixels(0)], MicroBatch(LABELS, epoch=0)).inputs
    assert inputs.teacher_logits.dtype == torch.bfloat16
    assert task.autocast(torch.device("cpu")).fast_dtype == torch.bfloat16


@pytest.mark.parametrize("of_student", [None, torch.bfloat16])
@pytest.mark.parametrize("of_teacher", [None, torch.bfloat16])
def test_teacher_has_its_own_precision_whatever_the_students_is(of_student, of_teacher):
    objective = Objective(Losses(kd={}), Context(5, 10, 0.0))
    trainee = Trainee(Linear(1), objective, of_student)
    teacher, pixels = FrozenTeacher(Linear(2), OTHER), make_pixels(0)
    task = DistillationTask(
        trainee, PixelNormalizer(NORMALIZATION), teacher, autocast_dtype=of_teacher
    )
    inputs = task([pixels], MicroBatch(LABELS, epoch=0)).inputs
    assert inputs.student_logits.dtype == (of_student or torch.float32)
    assert inputs.teacher_logits.dtype == (of_teacher or torch.float32)
    # In evaluation, too, whose context is the student's.
    with task.autocast(pixels.device):
        found = task.classify_by_teacher(pixels)
    assert torch.equal(found, inputs.teacher_logits)


def test_number_of_copies_reaches_the_losses(monkeypatch):
    seen = []

    class Recorded(Loss):
        def forward(self, inputs):
            seen.append((inputs.epoch, inputs.weight_in_sums))
            return inputs.student.sum()

    monkeypatch.setitem(LOSSES, "kd", Recorded)
    task = make_task({"kd": {}})
    task([make_pixels(0)], MicroBatch(LABELS, epoch=3))
    task([make_pixels(0)], MicroBatch(LABELS, epoch=4, weight_in_sums=0))
    assert seen == [(3, 1), (4, 0)]
