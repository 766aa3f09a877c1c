"""DIST, distillation from a stronger teacher."""

import torch
from torch import Tensor

from service.distillation.losses.base import Loss, LossInputs
from service.distillation.softening import soften
from service.spec.losses.dist import Dist

# The authors' own; added to the product of the norms.
EPSILON = 1e-8


def dist_loss(
    teacher_logits: Tensor, student_logits: Tensor, section: Dist, mask: Tensor | None = None
) -> Tensor:
    """T^2 [beta (1 - r over classes) + gamma (1 - r over samples)] of each valid position, [P].

    r is the Pearson correlation between p = softmax(u / T) and q = softmax(v / T): over the classes
    of the position, and over the valid positions of each class, averaged over the classes and so
    the same for all positions. It is 0, without a gradient, where either side is constant.

    Source: arXiv 2205.10536; T^2 and the epsilon are those of the authors' code.

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        section: beta, gamma and T; its weight is not applied.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes differ.
    """
    teacher, student, _ = soften(teacher_logits, student_logits, section.temperature, mask)
    p, q = torch.softmax(teacher, dim=1), torch.softmax(student, dim=1)
    over_classes = 1.0 - correlations(p, q, dim=1)
    over_samples = 1.0 - correlations(p, q, dim=0).mean()
    total = section.beta * over_classes + section.gamma * over_samples
    return section.temperature**2 * total


def correlations(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Pearson correlations of x and y, both [P, K], along ``dim``: [K] for 0, [P] for 1."""
    (x, x_norms), (y, y_norms) = _differences(x, dim), _differences(y, dim)
    return (x * y).sum(dim=dim) / (x_norms * y_norms + EPSILON)


def _differences(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Differences from the mean along ``dim``, and their norms; all 0 where values are constant."""
    differences = values - values.mean(dim=dim, keepdim=True)
    # Equal values differ from their mean by rounding errors, whose direction means nothing, and the
    # gradient of a correlation grows with the inverse of the norm.
    scale = torch.linalg.vector_norm(values, dim=dim, keepdim=True)
    norms = torch.linalg.vector_norm(differences, dim=dim, keepdim=True)
    is_varied = norms > torch.finfo(values.dtype).eps * scale
    differences = torch.where(is_varied, differences, 0.0)
    return differences, torch.linalg.vector_norm(differences, dim=dim)


class DistLoss(Loss):
    """``dist_loss`` with the section's settings."""

    section: Dist

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        return dist_loss(inputs.teacher, inputs.student, self.section, inputs.mask)
