"""TCKD, the target-class half of DKD."""

from typing import ClassVar

from service.spec.losses.temperatures import SoftenedLoss


class Tckd(SoftenedLoss):
    """T^2 KL of the label's class against all others, arXiv 2203.08679."""

    needs_labels: ClassVar[bool] = True
    reads_every_logit: ClassVar[bool] = True
