"""TCKD, the target-class half of DKD."""

from torch import Tensor

from service.distillation.losses.base import LossInputs
from service.distillation.losses.dkd import dkd_loss
from service.distillation.losses.softened import SoftenedRows
from service.spec.losses.tckd import Tckd


class TckdLoss(SoftenedRows):
    """T^2 KL of the label's class against all others: ``dkd_loss`` with alpha 1 and beta 0."""

    section: Tckd

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        teacher, student, found = self.rows(inputs)
        return dkd_loss(teacher, student, self.labels(inputs), found, alpha=1.0, beta=0.0)
