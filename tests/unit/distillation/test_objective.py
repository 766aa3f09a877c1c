"""The objective: parts, inputs and telemetry against the formulas."""

import pytest
import torch
from torch import nn

from service.distillation import dtkd_loss, kd_loss
from service.distillation.objective import (
    TELEMETRY_COLUMNS,
    DistillationTask,
    FrozenTeacher,
    PixelNormalizer,
    TaskOutput,
    sample_telemetry,
)
from service.distillation.temperature import Temperatures
from service.spec.data_sections import Normalization
from service.spec.sections import Method

NORMALIZATION = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))
OTHER = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Linear(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.fc = nn.Linear(48, 5)
        self.dropout = nn.Dropout(0.9)

    def forward(self, images):
        return self.fc(self.dropout(images).flatten(1))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 4, 4, 3), dtype=torch.uint8, generator=generator)
    return pixels, torch.tensor([0, 1, 2, 3, 4, 0])


def make_task(method, teacher=True, label_smoothing=0.0, autocast_dtype=None):
    return DistillationTask(
        Linear(1).eval(),
        PixelNormalizer(NORMALIZATION),
        FrozenTeacher(Linear(2), OTHER) if teacher else None,
        method,
        label_smoothing=label_smoothing,
        autocast_dtype=autocast_dtype,
    )


def test_normalizer_matches_float64(batch):
    pixels, _ = batch
    found = PixelNormalizer(NORMALIZATION)(pixels)
    mean = torch.tensor(NORMALIZATION.mean, dtype=torch.float64)
    std = torch.tensor(NORMALIZATION.std, dtype=torch.float64)
    expected = ((pixels.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_total_is_the_weighted_sum_of_parts(batch):
    task = make_task(Method(alpha=2.0, beta=0.5, gamma=0.25, base_temperature=3.0))
    output = task(*batch, warmup=0.4)
    u, v = output.teacher_logits, output.student_logits
    ce = nn.functional.cross_entropy(v, batch[1])
    expected = 0.4 * (2 * dtkd_loss(u, v, 3.0) + 0.5 * kd_loss(u, v, 3.0)) + 0.25 * ce
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert set(output.parts) == {"loss", "ce", "dtkd", "kd", "clamped_share"}


def test_teacher_has_its_own_normalization_and_no_dropout(batch):
    task = make_task(Method())
    output = task(*batch, warmup=1.0)
    images = ((batch[0].double() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
    fc = task.teacher.model.fc
    expected = images.flatten(1).float() @ fc.weight.T + fc.bias
    torch.testing.assert_close(output.teacher_logits, expected, rtol=1e-4, atol=1e-5)


def test_parts_with_weight_zero_have_no_gradient(batch):
    task = make_task(Method(alpha=0.0, beta=0.0, gamma=1.0))
    task(*batch, warmup=1.0).loss.backward()
    distilled = task.student.fc.weight.grad.clone()
    plain = make_task(Method(alpha=0.0, beta=0.0), teacher=False)
    plain(*batch, warmup=1.0).loss.backward()
    torch.testing.assert_close(distilled, plain.student.fc.weight.grad, rtol=0, atol=0)


def test_telemetry_measures_the_gap(batch):
    output = make_task(Method(sharpness="logsumexp"))(*batch, warmup=1.0)
    columns = dict(zip(TELEMETRY_COLUMNS, sample_telemetry(output, 4.0).unbind(1), strict=True))
    u = output.teacher_logits.double()
    v = output.student_logits.detach().double()
    u, v = u - u.mean(1, keepdim=True), v - v.mean(1, keepdim=True)
    before = (torch.logsumexp(u / 4, 1) - torch.logsumexp(v / 4, 1)).abs()
    torch.testing.assert_close(columns["gap_before"].double(), before, rtol=1e-4, atol=1e-6)
    assert columns["gap_after"][~output.temperatures.clamped].max() < 1e-5
    agreement = (u.argmax(1) == v.argmax(1)).float()
    torch.testing.assert_close(columns["agreement"], agreement)


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.0), (0.0, 0.5), (0.5, 0.25)])
def test_gradient_is_that_of_the_weighted_sum(batch, alpha, beta):
    """Also with weights below 1; the loss of weight 0 has none."""
    task = make_task(Method(alpha=alpha, beta=beta, gamma=0.5, base_temperature=3.0))
    task(*batch, warmup=0.8).loss.backward()
    found = task.student.fc.weight.grad.clone()
    task.student.zero_grad()
    v = task.student(task.normalizer(batch[0]))
    u = task.teacher(batch[0])
    distillation = alpha * dtkd_loss(u, v, 3.0) + beta * kd_loss(u, v, 3.0)
    (0.8 * distillation + 0.5 * nn.functional.cross_entropy(v, batch[1])).backward()
    torch.testing.assert_close(found, task.student.fc.weight.grad)


def test_temperatures_are_constants_in_the_gradient_if_detached(batch):
    gradients = []
    for detach in (False, True):
        task = make_task(Method(alpha=1.0, beta=0.0, gamma=0.0, detach=detach))
        task(*batch, warmup=1.0).loss.backward()
        gradients.append(task.student.fc.weight.grad)
        u, v = task.teacher(batch[0]), task.student(task.normalizer(batch[0]))
        task.student.zero_grad()
        dtkd_loss(u, v, 4.0, detach=detach).backward()
        torch.testing.assert_close(gradients[-1], task.student.fc.weight.grad)
    assert not torch.allclose(*gradients)


def test_label_smoothing_and_precision_are_those_of_the_task(batch):
    method = Method(alpha=0.0, beta=0.0)
    task = make_task(method, teacher=False, label_smoothing=0.3, autocast_dtype=torch.bfloat16)
    output = task(*batch, warmup=1.0)
    assert output.student_logits.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    logits = output.student_logits.double()
    expected = nn.functional.cross_entropy(logits, batch[1], label_smoothing=0.3)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    with torch.no_grad():
        exact = task.student(task.normalizer(batch[0]))
    assert not torch.equal(exact, output.student_logits.float())


def test_teacher_is_frozen_and_keeps_no_graph(batch):
    task = make_task(Method())
    output = task(*batch, warmup=1.0)
    assert not any(parameter.requires_grad for parameter in task.teacher.parameters())
    assert not task.teacher.model.training
    assert not output.teacher_logits.requires_grad
    assert not output.teacher_logits.is_inference()


def test_share_of_clamped_samples_is_reported(batch):
    """Both pairs of a logit of the teacher that is far larger than the student's are clamped."""
    task = make_task(Method(floor=0.4))
    with torch.no_grad():
        task.teacher.model.fc.weight.mul_(100)
    output = task(*batch, warmup=1.0)
    expected = output.temperatures.clamped.double().mean().item()
    assert expected > 0.0
    assert output.parts["clamped_share"].item() == pytest.approx(expected)


def test_agreement_needs_valid_logits_of_both():
    u = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [torch.nan, 0.0]])
    v = torch.tensor([[1.0, 0.0], [0.0, 1.0], [torch.inf, 3.0], [1.0, 0.0]])
    temperatures = Temperatures(torch.ones(4, 1), torch.ones(4, 1), torch.zeros(4, 1).bool())
    telemetry = sample_telemetry(TaskOutput(u.sum(), {}, v, u, temperatures), 1.0)
    agreement = telemetry[:, TELEMETRY_COLUMNS.index("agreement")]
    assert agreement.tolist() == [1.0, 0.0, 0.0, 0.0]
