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
    sample_telemetry,
)
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


def make_task(method, teacher=True):
    student = Linear(1).eval()
    return DistillationTask(
        student,
        PixelNormalizer(NORMALIZATION),
        FrozenTeacher(Linear(2), OTHER) if teacher else None,
        method,
        label_smoothing=0.0,
        autocast_dtype=None,
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
