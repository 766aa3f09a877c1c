"""Skew KL."""

from typing import Annotated, Literal

from pydantic import Field

from service.spec.losses.base import LossSection
from service.spec.losses.temperatures import Temperature


class Skew(LossSection):
    """T^2 KL with a mixture of both predictions, finite whatever they are, arXiv 2402.03898."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """forward: the teacher's share in the mixture that replaces the student's prediction. reverse:
    the student's share in the one that replaces the teacher's."""
    direction: Literal["forward", "reverse"] = "forward"
    """forward: KL(p || mixture). reverse: KL(q || mixture)."""
    temperature: Temperature = 4.0
    """Softmax temperature."""
