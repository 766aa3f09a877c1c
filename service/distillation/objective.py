"""The objective: the total of a spec's losses, and the state that they have.

    loss = weight of ce x ce + warm-up x (weight x loss + weight x loss + ...)

The factor warm-up rises from 0 to 1 over the first epochs. A loss that is absent, or has the weight
0, is not computed.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from service.distillation.fused import can_fuse, fused_losses
from service.distillation.fused.terms import FusedTerm, Rows
from service.distillation.logits import are_valid, as_rows, label_rows, paired_rows
from service.distillation.losses import LOSSES
from service.distillation.losses.base import Context, Loss, LossInputs
from service.distillation.sample_weights import entropy_weights
from service.spec.losses import Losses

# Mixup and CutMix mix two labels.
NUM_MIXED_LABELS = 2


class ObjectiveValue(NamedTuple):
    """``total``: scalar with a graph. ``parts``: detached scalars, the loss of each name."""

    total: Tensor
    parts: dict[str, Tensor]


class Objective(nn.Module):
    """Adds up the losses of a spec. Learned parameters and running state of a loss are its own.

    Args:
        losses: the spec's section.
        context: what the losses are built for.
    """

    def __init__(self, losses: Losses, context: Context):
        super().__init__()
        self._sections, self._entropy_weights = losses.active, losses.entropy_weights
        self.compares_strong_view = losses.compares_strong_view
        """Whether a loss compares the teacher's predictions for the strong view."""
        self._warmup_epochs = losses.warmup_epochs_of(context.num_epochs)
        self.losses = nn.ModuleDict(
            {name: LOSSES[name](section, context) for name, section in self._sections.items()}
        )

    def forward(self, inputs: LossInputs) -> ObjectiveValue:
        """The total of a micro-batch, and the losses that it consists of."""
        sample_weights = self._sample_weights(inputs)
        total, values = self._fused(inputs, sample_weights)
        for name, section in self._sections.items():
            if name in values:
                continue
            value = _value(self._loss(name), inputs, needs_labels=section.needs_labels)
            if section.needs_teacher and sample_weights is not None:
                value = sample_weights * value
            mean = value.mean()
            values[name] = mean.detach()
            weighted = self._weight(name, inputs.epoch) * mean
            total = weighted if total is None else total + weighted
        assert total is not None, "the spec was checked: a loss has a positive weight"
        return ObjectiveValue(total, {name: values[name] for name in self._sections})

    def _fused_terms(self, inputs: LossInputs) -> dict[str, FusedTerm]:
        """The losses that are computed together, in one pass over the logits."""
        if not can_fuse(inputs.student):
            return {}
        found = {name: self._loss(name).fused_term(inputs) for name in self._sections}
        return {name: term for name, term in found.items() if term is not None}

    def _fused(
        self, inputs: LossInputs, sample_weights: Tensor | None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The weighted sum of the losses that are fused, if any, and the mean of each."""
        terms = self._fused_terms(inputs)
        if not terms:
            return None, {}
        sections = [self._sections[name] for name in terms]
        teacher, labels = None, None
        if any(section.needs_teacher for section in sections):
            teacher, student = paired_rows(inputs.teacher, inputs.student, inputs.mask)
        else:
            student = as_rows(inputs.student, inputs.mask)
        if any(section.needs_labels for section in sections):
            labels = label_rows(inputs.labels, inputs.student, inputs.mask)
        weights = [self._weight(name, inputs.epoch) for name in terms]
        rows = Rows(student, teacher, labels, sample_weights)
        found = fused_losses(rows, list(terms.values()), weights)
        if found is None:
            return None, {}
        return found.total, dict(zip(terms, found.means.unbind(), strict=True))

    def _weight(self, name: str, epoch: int) -> float:
        """The factor of a loss in the total of an epoch, counted from 0."""
        section = self._sections[name]
        return section.weight * (self.warmup(epoch) if section.needs_teacher else 1.0)

    def warmup(self, epoch: int) -> float:
        """Factor of the losses that need the teacher, in ``epoch``, counted from 0."""
        return 1.0 if self._warmup_epochs <= 0 else min((epoch + 1) / self._warmup_epochs, 1.0)

    @torch.no_grad()
    def telemetry(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Columns [P] that describe the samples, by metric name; the same names on all workers.

        train/agreement: 1 where teacher and student predict the same class, else 0, also where the
        logits of one are not valid (see ``are_valid``). LOSS/NAME: what a loss says about itself;
        of mixed samples, for the label with the larger share.
        """
        if inputs.teacher_logits is None:
            return {}
        if inputs.has_mixed_targets:
            inputs = inputs.labeled(inputs.targets.argmax(dim=1))
        teacher, student = paired_rows(inputs.teacher, inputs.student, inputs.mask)
        are_both_valid = are_valid(teacher) & are_valid(student)
        is_same = teacher.argmax(dim=1) == student.argmax(dim=1)
        columns = {"train/agreement": (is_same & are_both_valid).float()}
        for name in self._sections:
            found = self._loss(name).telemetry(inputs)
            columns |= {f"{name}/{column}": values for column, values in found.items()}
        return columns

    def running_sums(self) -> list[Tensor]:
        """What workers add up on their own during an epoch, see ``Loss.running_sums``."""
        return [one for name in self._sections for one in self._loss(name).running_sums()]

    @torch.no_grad()
    def end_epoch(self, world_size: int) -> None:
        """Average the running sums over the workers and use them; every rank must call it."""
        sums = self.running_sums()
        if sums and world_size > 1:
            for one in sums:
                dist.all_reduce(one)
                one /= world_size
        for name in self._sections:
            self._loss(name).end_epoch()

    def _loss(self, name: str) -> Loss:
        loss = self.losses[name]
        assert isinstance(loss, Loss)
        return loss

    def _sample_weights(self, inputs: LossInputs) -> Tensor | None:
        if self._entropy_weights is None or inputs.teacher_logits is None:
            return None
        temperature = self._entropy_weights.temperature
        return entropy_weights(inputs.teacher, inputs.student, temperature, inputs.mask)


def _value(loss: Loss, inputs: LossInputs, *, needs_labels: bool) -> Tensor:
    """A loss of each position; of mixed samples, the mean over their labels."""
    if not (needs_labels and inputs.has_mixed_targets) or loss.takes_mixed_targets:
        return loss(inputs)
    shares, labels = inputs.targets.topk(NUM_MIXED_LABELS, dim=1)
    values = [
        as_rows(share[:, None], inputs.mask)[:, 0] * loss(inputs.labeled(label))
        for share, label in zip(shares.unbind(1), labels.unbind(1), strict=True)
    ]
    return values[0] + values[1]
