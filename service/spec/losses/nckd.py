"""NCKD, the non-target-class half of DKD."""

from typing import ClassVar

from service.spec.losses.temperatures import SoftenedLoss


class Nckd(SoftenedLoss):
    """T^2 KL among the classes other than the label's, arXiv 2203.08679."""

    needs_labels: ClassVar[bool] = True
    reads_every_logit: ClassVar[bool] = True
