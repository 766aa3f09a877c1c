"""Cross-entropy with the labels."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from service.distillation.fused.terms import CrossEntropyTerm
from service.distillation.logits import as_rows, label_rows
from service.distillation.losses.base import Loss, LossInputs
from service.spec.losses.ce import Ce


def cross_entropy(
    logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, mask: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy over all valid positions, a scalar.

    Args:
        logits: [N, K, ...].
        targets: labels [N, ...], or distributions [N, K, ...].
        label_smoothing: weight of the uniform distribution in the targets, in [0, 1].
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes do not fit.
    """
    rows = as_rows(logits, mask)
    is_mixed = targets.is_floating_point()
    flat = as_rows(targets, mask) if is_mixed else label_rows(targets, logits, mask)
    return F.cross_entropy(rows, flat, label_smoothing=label_smoothing)


class CeLoss(Loss):
    """Of the weak view, or the sum over both."""

    takes_mixed_targets: ClassVar[bool] = True

    section: Ce

    def forward(self, inputs: LossInputs) -> Tensor:
        """A scalar."""
        views = [inputs.student]
        if self.section.needs_strong_view:
            views.append(inputs.strong_student)
        losses = [
            cross_entropy(view, inputs.targets, self.context.label_smoothing, inputs.mask)
            for view in views
        ]
        return sum(losses[1:], losses[0])

    def fused_term(self, inputs: LossInputs) -> CrossEntropyTerm | None:
        """Of labels and one view."""
        if inputs.has_mixed_targets or self.section.needs_strong_view:
            return None
        return CrossEntropyTerm(self.context.label_smoothing)
