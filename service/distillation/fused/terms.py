"""What a fused loss consists of."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from service.distillation.temperature import Sharpness


@dataclass(frozen=True)
class CrossEntropyTerm:
    """Cross-entropy with labels, of which the uniform distribution has a share."""

    label_smoothing: float


@dataclass(frozen=True)
class SoftenedTerm:
    """T_tea T_stu KL(softmax(u / T_tea) || softmax(v / T_stu)), as ``kd_loss`` and ``dtkd_loss``.

    ``sharpness``: the rule of ``matched_temperatures``, of which ``floor`` and whether to
    ``detach`` are settings; None: both temperatures are ``temperature``.
    """

    temperature: float
    sharpness: Sharpness | None = None
    floor: float = 0.0
    detach: bool = False


FusedTerm = CrossEntropyTerm | SoftenedTerm


class Rows(NamedTuple):
    """What terms are computed from: contiguous float32 rows [P, K] of both sides.

    ``teacher`` and ``labels`` [P] are None where no term needs them; ``weights`` [P], of the
    softened terms' rows, is None where all count the same.
    """

    student: Tensor
    teacher: Tensor | None
    labels: Tensor | None
    weights: Tensor | None


class KernelResult(NamedTuple):
    """``values``: the mean of each term, and behind them their weighted sum, [num_terms + 1].

    ``gradient``: of the weighted sum with respect to the student's rows, [P, K], if asked for.
    """

    values: Tensor
    gradient: Tensor | None
