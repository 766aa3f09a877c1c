"""CTKD, curriculum temperature."""

import math

import torch
from torch import Tensor, nn

from service.distillation.divergences import kl_divergence
from service.distillation.logits import paired_rows, standardized
from service.distillation.losses.base import Context, Loss, LossInputs
from service.spec.losses.ctkd import Ctkd

PUBLISHED_RAMP_EPOCHS, PUBLISHED_EPOCHS = 10, 240


def ctkd_loss(
    teacher_logits: Tensor, student_logits: Tensor, temperature: Tensor, mask: Tensor | None = None
) -> Tensor:
    """T^2 KL(softmax(u / T) || softmax(v / T)) of each valid position, [P], with a learned T.

    Source: arXiv 2211.16231; T^2 also has a gradient, as in the authors' code.

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        temperature: T, [1], positive.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes differ.
    """
    teacher, student = paired_rows(teacher_logits, student_logits, mask)
    return temperature.square() * kl_divergence(teacher / temperature, student / temperature)


def reversed_gradient(values: Tensor, strength: float) -> Tensor:
    """The same values, whose gradient is multiplied by -``strength``."""
    constants = values.detach()
    # The difference is exactly 0, so that the values do not change by rounding.
    return constants - strength * (values - constants)


def reversal_strength(epoch: int, ramp_epochs: float) -> float:
    """Strength of the reversed gradient in an epoch, counted from 0: from 0 to 1 on half a cosine.

    The value of an epoch is that at its end: as in the authors' code, which counts from 1, the
    first epoch already moves the temperature, and the last one of the ramp has the strength 1.

    Source: arXiv 2211.16231.
    """
    progress = 1.0 if epoch + 1 >= ramp_epochs else (epoch + 1) / ramp_epochs
    return 0.5 * (1.0 - math.cos(math.pi * progress))


class CtkdLoss(Loss):
    """``ctkd_loss`` at a temperature that is trained to maximize it.

    ``theta``, [1], is a parameter beside those of the student, and in the authors' code has the
    same optimizer and weight decay. It must be the same on all workers.
    """

    section: Ctkd

    def __init__(self, section: Ctkd, context: Context):
        super().__init__(section, context)
        share = PUBLISHED_RAMP_EPOCHS / PUBLISHED_EPOCHS
        default = min(float(PUBLISHED_RAMP_EPOCHS), share * context.num_epochs)
        self._ramp_epochs = default if section.ramp_epochs is None else section.ramp_epochs
        self.theta = nn.Parameter(torch.ones(1))

    def temperature(self, epoch: int) -> Tensor:
        """The temperature, [1], with the gradient of an epoch, counted from 0."""
        theta = reversed_gradient(self.theta, reversal_strength(epoch, self._ramp_epochs))
        return self.section.minimum + self.section.range * torch.sigmoid(theta)

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        rows = paired_rows(inputs.teacher, inputs.student, inputs.mask)
        teacher, student = map(standardized, rows) if self.section.standardize else rows
        return ctkd_loss(teacher, student, self.temperature(inputs.epoch))

    @torch.no_grad()
    def telemetry(self, inputs: LossInputs) -> dict[str, Tensor]:
        """temperature, the same for each position."""
        teacher, _ = paired_rows(inputs.teacher, inputs.student, inputs.mask)
        return {"temperature": self.temperature(inputs.epoch).expand(len(teacher))}
