"""NCKD, the non-target-class half of DKD."""

from torch import Tensor

from service.distillation.losses.base import LossInputs
from service.distillation.losses.dkd import dkd_loss
from service.distillation.losses.softened import SoftenedRows
from service.spec.losses.nckd import Nckd


class NckdLoss(SoftenedRows):
    """T^2 KL among the classes other than the label's: ``dkd_loss`` with alpha 0 and beta 1."""

    section: Nckd

    def forward(self, inputs: LossInputs) -> Tensor:
        """[P]."""
        teacher, student, found = self.rows(inputs)
        return dkd_loss(teacher, student, self.labels(inputs), found, alpha=0.0, beta=1.0)
