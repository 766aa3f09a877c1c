"""GKL, generalized Kullback-Leibler divergence."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from service.distillation.logits import (
    are_valid,
    as_rows,
    centered,
    label_rows,
    paired_rows,
    without_autocast,
)
from service.distillation.losses.base import Context, Loss, LossInputs, label_distributions
from service.spec.losses.gkl import Gkl


def gkl_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    class_shares: Tensor,
    section: Gkl,
    mask: Tensor | None = None,
) -> Tensor:
    """alpha x soft cross-entropy + beta x weighted squared differences of each valid position, [P].

    The first part is -sum p log q with p = softmax(u / T) and q = softmax(v / T). The second, which
    is the same for all positions, compares the differences of all pairs of logits, with w the power
    gamma of ``class_shares``; all sums are over the valid positions b too:

        1/4 sum w_bi w_bj ((u_bi - u_bj) - (v_bi - v_bj))^2 / sum w_bi w_bj

    Source: arXiv 2503.08038; without the factor T^2, as in the authors' code.

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        class_shares: one distribution over the classes for each valid position, [P, K].
        section: alpha, beta, gamma and T; its weight is not applied.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes differ.
    """
    teacher, student = paired_rows(teacher_logits, student_logits, mask)
    p = torch.softmax(teacher / section.temperature, dim=1)
    log_q = F.log_softmax(student / section.temperature, dim=1)
    cross_entropy = -(p * log_q).sum(dim=1)
    differences = pairwise_differences(teacher, student, class_shares, section.gamma)
    return section.alpha * cross_entropy + section.beta * differences


def pairwise_differences(
    teacher: Tensor, student: Tensor, class_shares: Tensor, gamma: float
) -> Tensor:
    """The second part of ``gkl_loss`` for rows [P, K], a scalar.

    With d = u - v, W = sum w and V the variance of d under the weights w / W, the sum over i and j
    of w_i w_j (d_i - d_j)^2 is 2 W^2 V: the result is half the mean of V, weighted by W^2.
    """
    peaks = class_shares.amax(dim=1, keepdim=True)
    # Divided by each row's largest one, powers cannot all underflow to 0.
    weights = (class_shares / peaks) ** gamma
    totals = weights.sum(dim=1, keepdim=True)
    shares = weights / totals
    # Large offsets that all logits of a row have in common cost the fewest digits this way.
    d = centered(teacher) - centered(student)
    means = (shares * d).sum(dim=1, keepdim=True)
    variances = (shares * (d - means).square()).sum(dim=1)
    row_weights = (totals * (peaks / peaks.amax()) ** gamma).square()[:, 0]
    return 0.5 * (row_weights * variances).sum() / row_weights.sum()


class GklLoss(Loss):
    """``gkl_loss`` whose classes are weighted as the section says.

    ``class_means``: mean prediction of the teacher in the epoch before, one row for each label; the
    uniform distribution for labels without samples in it, and in the first epoch. ``sums``: sums of
    its predictions in this epoch. Both are [K, K] and exist for weights_of class_means only.
    """

    takes_mixed_targets: ClassVar[bool] = True
    section: Gkl
    class_means: Tensor
    sums: Tensor

    def __init__(self, section: Gkl, context: Context):
        super().__init__(section, context)
        self._has_table = section.weights_of == "class_means"
        if self._has_table:
            size = context.num_classes, context.num_classes
            self.register_buffer("class_means", torch.full(size, 1.0 / context.num_classes))
            self.register_buffer("sums", torch.zeros(size), persistent=False)

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]; in training mode, also adds the teacher's predictions to the sums."""
        shares = self._class_shares(inputs)
        return gkl_loss(inputs.teacher, inputs.student, shares, self.section, inputs.mask)

    @torch.no_grad()
    def _class_shares(self, inputs: LossInputs) -> Tensor:
        rows = as_rows(inputs.teacher, inputs.mask)
        predictions = torch.softmax(rows / self.section.weights_temperature, dim=1)
        if not self._has_table:
            return predictions
        targets = self._target_rows(inputs).to(self.sums.dtype)
        # Autocast would round the products to half precision.
        with without_autocast(rows):
            if self.training:
                # One NaN would stay in the table.
                counted = torch.where(are_valid(rows)[:, None], predictions, 0.0)
                self.sums += inputs.weight_in_sums * (targets.T @ counted.to(self.sums.dtype))
            return targets @ self.class_means

    def _target_rows(self, inputs: LossInputs) -> Tensor:
        """The targets of the valid positions as distributions, [P, K]."""
        if inputs.has_mixed_targets:
            return as_rows(inputs.targets, inputs.mask)
        # Labels without a prediction, which need not be classes, are taken out first.
        labels = label_rows(inputs.labels, inputs.student, inputs.mask)
        return label_distributions(labels, self.context.num_classes)

    def running_sums(self) -> list[Tensor]:
        """``sums``."""
        return [self.sums] if self._has_table else []

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Make the table from the sums, and start new ones."""
        if not self._has_table:
            return
        counts = self.sums.sum(dim=1, keepdim=True)
        means = self.sums / torch.where(counts > 0, counts, 1.0)
        self.class_means.copy_(torch.where(counts > 0, means, 1.0 / self.context.num_classes))
        self.sums.zero_()
