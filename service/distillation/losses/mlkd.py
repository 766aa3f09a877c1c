"""MLKD, multi-level logit distillation."""

import torch
from torch import Tensor

from service.distillation.logits import paired_rows, standardized, without_autocast
from service.distillation.losses.base import Loss, LossInputs
from service.distillation.losses.kd import kd_loss
from service.spec.losses.mlkd import Mlkd


def mlkd_loss(
    teacher_logits: Tensor, student_logits: Tensor, section: Mlkd, mask: Tensor | None = None
) -> Tensor:
    """The loss of one view, of each valid position [P]; MLKD adds that of the other view.

    It is the sum over the temperatures T of three parts. With the predictions p = softmax(u / T)
    and q = softmax(v / T), [P, K], of the P valid positions:

    - samples: T^2 KL(p || q) of the position;
    - pairs of samples: ||p p' - q q'||^2 / P, the squared Frobenius norm of a [P, P] matrix;
    - pairs of classes: ||p' p - q' q||^2 / K, that of a [K, K] matrix.

    The parts about pairs are the same for all positions.

    Source: Jin, Wang and Lin, CVPR 2023, "Multi-Level Logit Distillation". This follows the paper.
    The authors' released code differs: its mask of the less certain half of the samples multiplies
    averages, and so halves the weak view's parts; it takes the weak view's logits for the strong
    view's at the temperatures 2 and 6; and it leaves out the strong view's pairs.

    Standardization applies to the first part only, as in the code of arXiv 2403.01427.

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        section: the temperatures, and whether to standardize; its weight is not applied.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes differ.
    """
    teacher, student = rows = paired_rows(teacher_logits, student_logits, mask)
    u, v = map(standardized, rows) if section.standardize else rows
    total = student.new_zeros(len(student))
    for temperature in section.temperatures:
        p = torch.softmax(teacher / temperature, dim=1)
        q = torch.softmax(student / temperature, dim=1)
        pairs_of_samples = gram_distance(p, q) / p.shape[0]
        pairs_of_classes = gram_distance(p.T, q.T) / p.shape[1]
        total = total + kd_loss(u, v, temperature) + pairs_of_samples + pairs_of_classes
    return total


def gram_distance(x: Tensor, y: Tensor) -> Tensor:
    """||x x' - y y'||^2, the squared Frobenius norm, for x and y [n, m]; a scalar.

    No matrix is larger than [min(n, m), min(n, m)]: pixels are far more than classes.
    """
    # Autocast would round the products to half precision.
    with without_autocast(x):
        if x.shape[0] <= x.shape[1]:
            return (x @ x.T - y @ y.T).square().sum()
        # With d = x - y and s = x + y, x x' - y y' = (d s' + s d') / 2.
        d, s = x - y, x + y
        mixed = d.T @ s
        return 0.5 * ((d.T @ d) * (s.T @ s) + mixed * mixed.T).sum()


class MlkdLoss(Loss):
    """``mlkd_loss`` of both views, added."""

    section: Mlkd

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        weak = mlkd_loss(inputs.teacher, inputs.student, self.section, inputs.mask)
        strong_logits = inputs.strong_teacher, inputs.strong_student
        return weak + mlkd_loss(*strong_logits, self.section, inputs.mask)
