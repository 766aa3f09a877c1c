"""What a loss gets, and what it returns."""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from service.distillation.fused.terms import FusedTerm
from service.spec.losses import LossSection


class Context(NamedTuple):
    """What losses are built for.

    ``classifier``: weights of the teacher's last layer, [K, C]; None where no loss needs them.
    """

    num_classes: int
    num_epochs: int
    label_smoothing: float = 0.0
    classifier: Tensor | None = None


@dataclass(frozen=True)
class LossInputs:
    """One micro-batch, as the losses see it.

    ``targets``: labels [N, ...], or mixed label distributions [N, K, ...]. ``epoch`` counts from 0.
    ``weight_in_sums``: of each sample in running sums: the number of workers, so that their mean is
    the sum over all of them, or 0 for a micro-batch that only fills a place.
    """

    student_logits: Tensor
    """[N, K, ...]; further dimensions are positions."""
    targets: Tensor
    epoch: int
    teacher_logits: Tensor | None = None
    """None where no loss needs a teacher."""
    strong_student_logits: Tensor | None = None
    """Of the strong view."""
    strong_teacher_logits: Tensor | None = None
    mask: Tensor | None = None
    """[N, ...], bool: the positions that count; absent: all."""
    weight_in_sums: int = 1

    @property
    def teacher(self) -> Tensor:
        """The teacher's logits, which a loss may take for granted if its section needs them."""
        assert self.teacher_logits is not None, "the spec was checked: there is a teacher"
        return self.teacher_logits

    @property
    def student(self) -> Tensor:
        """The student's logits."""
        return self.student_logits

    @property
    def strong_teacher(self) -> Tensor:
        """The teacher's logits of the strong view."""
        assert self.strong_teacher_logits is not None, "the spec was checked: it has this view"
        return self.strong_teacher_logits

    @property
    def strong_student(self) -> Tensor:
        """The student's logits of the strong view."""
        assert self.strong_student_logits is not None, "the spec was checked: it has this view"
        return self.strong_student_logits

    @property
    def labels(self) -> Tensor:
        """Labels [N, ...]; mixed ones are given to a loss label by label."""
        assert not self.has_mixed_targets
        return self.targets

    @property
    def has_mixed_targets(self) -> bool:
        """Whether the targets are distributions over the classes."""
        return self.targets.is_floating_point()

    def labeled(self, labels: Tensor) -> "LossInputs":
        """The same micro-batch with other labels [N, ...]."""
        return replace(self, targets=labels)

    def detached(self) -> "LossInputs":
        """The same micro-batch without its graph."""
        strong = self.strong_student_logits
        return replace(
            self,
            student_logits=self.student_logits.detach(),
            strong_student_logits=None if strong is None else strong.detach(),
        )


class Loss(nn.Module):
    """A loss of the spec. Parameters and buffers that it registers are trained and saved.

    Args:
        section: its settings; the weight is not applied here.
        context: what it is built for.
    """

    section: LossSection
    takes_mixed_targets: ClassVar[bool] = False
    """Whether ``forward`` takes distributions as targets. Others that use labels get the labels of
    a mixed sample one after the other, and their losses are weighted as the labels are."""

    def __init__(self, section: LossSection, context: Context):
        super().__init__()
        self.section, self.context = section, context

    def forward(self, inputs: LossInputs) -> Tensor:
        """The loss of each valid position, [P], in the order of ``as_rows``.

        What belongs to no position alone is in all of them, so that the loss is their mean. Where
        no teacher is compared, and so no sample is weighted, the mean itself will do.
        """
        raise NotImplementedError

    def fused_term(self, inputs: LossInputs) -> FusedTerm | None:  # noqa: ARG002 - for subclasses
        """The same loss as a term of one fused computation; None where it is computed by itself."""
        return None

    def telemetry(self, inputs: LossInputs) -> dict[str, Tensor]:  # noqa: ARG002 - for subclasses
        """Columns [P] by name that describe the samples; computed at logging steps only."""
        return {}

    def running_sums(self) -> list[Tensor]:
        """State that workers add to on their own during an epoch: what matters is its mean."""
        return []

    def end_epoch(self) -> None:
        """Use ``running_sums``, which are now the workers' mean, for the next epoch."""


@torch.no_grad()
def label_distributions(targets: Tensor, num_classes: int) -> Tensor:
    """Targets as distributions over the classes, [N, K, ...]."""
    if targets.is_floating_point():
        return targets
    # F.one_hot would read the targets on the host.
    shape = (*targets.shape, num_classes)
    distributions = torch.zeros(shape, device=targets.device)
    return distributions.scatter_(-1, targets[..., None], 1.0).movedim(-1, 1)
