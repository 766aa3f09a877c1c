"""WKD-L, Wasserstein distance between predictions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from service.distillation.divergences import without_class
from service.distillation.logits import label_rows, paired_rows, without_autocast
from service.distillation.losses.base import Context, Loss, LossInputs
from service.spec.losses.wkd import Wkd

# The authors' own: added to the divisors of Sinkhorn's algorithm, and to all costs.
EPSILON = 1e-8


def wkd_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    labels: Tensor,
    cost: Tensor,
    section: Wkd,
    gamma: float,
    mask: Tensor | None = None,
) -> Tensor:
    """-p_y log q_y + gamma W of each valid position, [P].

    p and q are the softmax of u and v at temperature 1. W is the entropic transport cost between
    their softmax at T among the classes other than the label y; see ``Transport``.

    Source: arXiv 2412.08139 and the authors' code.

    Args:
        teacher_logits: u, [N, K, ...].
        student_logits: v, [N, K, ...].
        labels: [N, ...].
        cost: of moving probability from one class to another, [K, K]; see ``class_costs``.
        section: T and the settings of the transport; its weight and gamma are not applied.
        gamma: weight of W in this epoch; see ``transport_weight``.
        mask: [N, ...], bool: the positions that count; None for all.

    Raises:
        ValueError: the shapes do not fit.
    """
    teacher, student = paired_rows(teacher_logits, student_logits, mask)
    rows = label_rows(labels, student_logits, mask)
    p_label = torch.softmax(teacher, dim=1).gather(1, rows[:, None])[:, 0]
    log_q_label = F.log_softmax(student, dim=1).gather(1, rows[:, None])[:, 0]
    return gamma * Transport(teacher, student, rows, cost, section).costs() - p_label * log_q_label


class Transport:
    """Sinkhorn's transport between predictions among the non-target classes, row by row.

    The flow between the classes i and j is a_i exp(-cost_ij / regularization) b_j with scalings a
    of the student's classes and b of the teacher's. It is that of the problem without the label's
    row and column: that class has no mass and a scaling of 0, so it adds nothing to any product,
    and all rows share the whole matrix [K, K].

    Args:
        teacher: logits [P, K].
        student: logits [P, K].
        labels: [P].
        cost: [K, K].
        section: the temperature and the settings of the algorithm.
    """

    def __init__(
        self, teacher: Tensor, student: Tensor, labels: Tensor, cost: Tensor, section: Wkd
    ):
        self._teacher = torch.softmax(without_class(teacher / section.temperature, labels), dim=1)
        self._student = torch.softmax(without_class(student / section.temperature, labels), dim=1)
        self._cost = cost.to(student.dtype)
        self._kernel = torch.exp(-self._cost / section.regularization)
        start = torch.full_like(student, 1.0 / max(student.shape[1] - 1, 1))
        scalings = start.detach().scatter(1, labels[:, None], 0.0)
        # Autocast would round the products to half precision.
        with without_autocast(student):
            for _ in range(section.num_iterations):
                of_teacher = self._teacher / (scalings @ self._kernel + EPSILON)
                scalings = self._student / (of_teacher @ self._kernel.T + EPSILON)
        self._of_student, self._of_teacher = scalings, of_teacher

    def costs(self) -> Tensor:
        """Cost of each row's flow, [P]."""
        with without_autocast(self._student):
            costs = self._of_teacher @ (self._kernel * self._cost).T
        return (self._of_student * costs).sum(dim=1)

    def marginal_errors(self) -> tuple[Tensor, Tensor]:
        """Sums over the classes of |mass of the flow - prediction|, of teacher and student; [P]."""
        with without_autocast(self._student):
            to_teacher = self._of_teacher * (self._of_student @ self._kernel)
            from_student = self._of_student * (self._of_teacher @ self._kernel.T)
        teacher_error = (to_teacher - self._teacher).abs().sum(dim=1)
        return teacher_error, (from_student - self._student).abs().sum(dim=1)


def class_costs(classifier: Tensor, sharpening: float) -> Tensor:
    """1 - exp(-s (1 - cosine similarity)) between the rows of a classifier [K, C]; [K, K]."""
    # In float64: a row's similarity with itself is 1 only up to rounding.
    directions = F.normalize(classifier.detach().double(), dim=1)
    with without_autocast(classifier):
        similarities = directions @ directions.T
    costs = 1.0 - torch.exp(-sharpening * (1.0 - similarities))
    return (costs.relu() + EPSILON).float()


def transport_weight(section: Wkd, epoch: int, num_epochs: int) -> float:
    """gamma in an epoch, counted from 0.

    As in the authors' code: it is whole before the epoch ``decay_from_epoch``, a little less in it,
    and 0 in the last one.
    """
    num_decaying = num_epochs - section.decay_from_epoch
    if num_decaying <= 0:
        return section.gamma
    progress = max(epoch + 1 - section.decay_from_epoch, 0) / num_decaying
    return section.gamma * 0.5 * (1.0 + math.cos(math.pi * progress))


class WkdLoss(Loss):
    """``wkd_loss`` with the costs between the rows of the teacher's classifier."""

    section: Wkd
    cost: Tensor

    def __init__(self, section: Wkd, context: Context):
        super().__init__(section, context)
        assert context.classifier is not None, "the section says that it needs the classifier"
        cost = class_costs(context.classifier, section.sharpening)
        self.register_buffer("cost", cost, persistent=False)

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        gamma = transport_weight(self.section, inputs.epoch, self.context.num_epochs)
        logits = inputs.teacher, inputs.student
        return wkd_loss(*logits, inputs.labels, self.cost, self.section, gamma, inputs.mask)

    @torch.no_grad()
    def telemetry(self, inputs: LossInputs) -> dict[str, Tensor]:
        """How far the flows are from the predictions after the iterations."""
        rows = paired_rows(inputs.teacher, inputs.student, inputs.mask)
        labels = label_rows(inputs.labels, inputs.student, inputs.mask)
        teacher, student = Transport(*rows, labels, self.cost, self.section).marginal_errors()
        return {"teacher_marginal_error": teacher, "student_marginal_error": student}
