"""The losses, each in a file of its name, with its formula as a pure function.

``LOSSES`` is the table of all; ``service.spec.losses`` has their sections.
"""

from collections.abc import Callable
from typing import Any

from service.distillation.losses.abkd import AbkdLoss
from service.distillation.losses.base import Context, Loss
from service.distillation.losses.ce import CeLoss
from service.distillation.losses.crld import CrldLoss
from service.distillation.losses.ctkd import CtkdLoss
from service.distillation.losses.dist import DistLoss
from service.distillation.losses.dkd import DkdLoss
from service.distillation.losses.dtkd import DtkdLoss
from service.distillation.losses.gkl import GklLoss
from service.distillation.losses.kd import KdLoss
from service.distillation.losses.ldrld import LdrldLoss
from service.distillation.losses.ls import LsLoss
from service.distillation.losses.mlkd import MlkdLoss
from service.distillation.losses.nckd import NckdLoss
from service.distillation.losses.nkd import NkdLoss
from service.distillation.losses.normkd import NormkdLoss
from service.distillation.losses.rld import RldLoss
from service.distillation.losses.skew import SkewLoss
from service.distillation.losses.tckd import TckdLoss
from service.distillation.losses.ttm import TtmLoss
from service.distillation.losses.wkd import WkdLoss
from service.distillation.losses.wttm import WttmLoss

LOSSES: dict[str, Callable[[Any, Context], Loss]] = {
    "ce": CeLoss,
    "dtkd": DtkdLoss,
    "kd": KdLoss,
    "dkd": DkdLoss,
    "tckd": TckdLoss,
    "nckd": NckdLoss,
    "ctkd": CtkdLoss,
    "ls": LsLoss,
    "normkd": NormkdLoss,
    "ttm": TtmLoss,
    "wttm": WttmLoss,
    "nkd": NkdLoss,
    "dist": DistLoss,
    "mlkd": MlkdLoss,
    "rld": RldLoss,
    "gkl": GklLoss,
    "wkd": WkdLoss,
    "ldrld": LdrldLoss,
    "crld": CrldLoss,
    "abkd": AbkdLoss,
    "skew": SkewLoss,
}
"""What builds a loss from its section, by the section's name."""
