"""Networks on pixels: the normalization, and the frozen teacher with its own."""

import pytest
import torch
from torch import nn

from service.distillation.pixels import FrozenTeacher, PixelNormalizer
from service.spec.data_sections import Normalization

NORMALIZATION = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.fc = nn.Linear(48, 5)
        self.dropout = nn.Dropout(0.9)

    def forward(self, images):
        return self.fc(self.dropout(images).flatten(1))


@pytest.fixture
def pixels():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, 4, 4, 3), dtype=torch.uint8, generator=generator)


def normalized(pixels):
    """In float64, channels first."""
    mean = torch.tensor(NORMALIZATION.mean, dtype=torch.float64)
    std = torch.tensor(NORMALIZATION.std, dtype=torch.float64)
    return ((pixels.double() / 255 - mean) / std).permute(0, 3, 1, 2)


def test_normalizer_matches_float64(pixels):
    found = PixelNormalizer(NORMALIZATION)(pixels)
    torch.testing.assert_close(found.double(), normalized(pixels), rtol=0, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_teacher_has_its_own_normalization_and_no_dropout(pixels):
    teacher = FrozenTeacher(Linear().train(), NORMALIZATION)
    fc = teacher.model.fc
    expected = normalized(pixels).flatten(1).float() @ fc.weight.T + fc.bias
    torch.testing.assert_close(teacher(pixels), expected, rtol=1e-4, atol=1e-5)


def test_teacher_is_frozen_and_keeps_no_graph(pixels):
    teacher = FrozenTeacher(Linear(), NORMALIZATION)
    logits = teacher(pixels)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.model.training
    assert not logits.requires_grad
    assert not logits.is_inference()


@pytest.mark.parametrize("num_at_once", [1, 4, 6, 99])
def test_a_teacher_in_parts_predicts_what_it_does_at_once(num_at_once):
    torch.manual_seed(0)
    sizes = []
    teacher = FrozenTeacher(Linear(), NORMALIZATION)
    teacher.model.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    pixels = torch.randint(0, 256, (6, 4, 4, 3), dtype=torch.uint8)
    expected = teacher(pixels)
    teacher.num_at_once = num_at_once
    torch.testing.assert_close(teacher(pixels), expected)
    assert max(sizes[1:]) <= num_at_once
    assert sum(sizes[1:]) == 6
