"""The losses of a job: each an optional section, in a file of its name.

``Losses`` is the table of all; ``service.distillation.losses`` has the formulas.
"""

from service.spec.fields import NonNegative, Section
from service.spec.losses.abkd import Abkd
from service.spec.losses.base import TEMPERATURE_FIELDS, LossSection
from service.spec.losses.ce import Ce
from service.spec.losses.crld import Crld
from service.spec.losses.ctkd import Ctkd
from service.spec.losses.dist import Dist
from service.spec.losses.dkd import Dkd
from service.spec.losses.dtkd import Dtkd
from service.spec.losses.entropy_weights import EntropyWeights
from service.spec.losses.gkl import Gkl
from service.spec.losses.kd import Kd
from service.spec.losses.ldrld import Ldrld
from service.spec.losses.ls import Ls
from service.spec.losses.mlkd import Mlkd
from service.spec.losses.nckd import Nckd
from service.spec.losses.nkd import Nkd
from service.spec.losses.normkd import Normkd
from service.spec.losses.rld import Rld
from service.spec.losses.skew import Skew
from service.spec.losses.tckd import Tckd
from service.spec.losses.ttm import Ttm
from service.spec.losses.wkd import Wkd
from service.spec.losses.wttm import Wttm

__all__ = ["TEMPERATURE_FIELDS", "LossSection", "Losses", "default_losses"]

PUBLISHED_WARMUP_EPOCHS, PUBLISHED_EPOCHS = 20, 240


class Losses(Section):
    """The total: ce + warm-up x the others, each times its weight; exactly those that are given."""

    ce: Ce | None = None
    dtkd: Dtkd | None = None
    kd: Kd | None = None
    dkd: Dkd | None = None
    tckd: Tckd | None = None
    nckd: Nckd | None = None
    ctkd: Ctkd | None = None
    ls: Ls | None = None
    normkd: Normkd | None = None
    ttm: Ttm | None = None
    wttm: Wttm | None = None
    nkd: Nkd | None = None
    dist: Dist | None = None
    mlkd: Mlkd | None = None
    rld: Rld | None = None
    gkl: Gkl | None = None
    wkd: Wkd | None = None
    ldrld: Ldrld | None = None
    crld: Crld | None = None
    abkd: Abkd | None = None
    skew: Skew | None = None

    entropy_weights: EntropyWeights | None = None
    """Absent: all samples count the same."""
    warmup_epochs: NonNegative | None = None
    """Epochs over which all losses but ce rise linearly to their weight. Absent: 20, or a twelfth
    of the epochs if that is less (published: 20 of 240)."""

    @property
    def active(self) -> dict[str, LossSection]:
        """The losses with a positive weight, by name, in the table's order."""
        sections = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: section
            for name, section in sections.items()
            if isinstance(section, LossSection) and section.weight > 0
        }

    @property
    def needs_teacher(self) -> bool:
        """Whether any loss in the total compares the student with a teacher."""
        return any(section.needs_teacher for section in self.active.values())

    @property
    def needs_classifier(self) -> bool:
        """Whether any loss in the total reads the weights of the teacher's last layer."""
        return any(section.needs_classifier for section in self.active.values())

    @property
    def uses_strong_view(self) -> bool:
        """Whether any loss in the total reads the strong view."""
        return any(section.needs_strong_view for section in self.active.values())

    @property
    def compares_strong_view(self) -> bool:
        """Whether any loss in the total compares the teacher's strong view."""
        return any(
            section.needs_strong_view and section.needs_teacher for section in self.active.values()
        )

    def without_inactive(self) -> "Losses":
        """The same total, without sections of weight 0."""
        names = type(self).model_fields.keys() - self.active.keys()
        inactive = {name for name in names if isinstance(getattr(self, name), LossSection)}
        return self.model_copy(update=dict.fromkeys(inactive))

    def warmup_epochs_of(self, num_epochs: int) -> float:
        """The warm-up in a run of ``num_epochs``."""
        if self.warmup_epochs is not None:
            return self.warmup_epochs
        share = PUBLISHED_WARMUP_EPOCHS / PUBLISHED_EPOCHS
        return min(float(PUBLISHED_WARMUP_EPOCHS), share * num_epochs)


def default_losses(*, has_teacher: bool, has_labels: bool = True) -> Losses:
    """What a job without ``losses`` trains with: DTKD as published, or cross-entropy alone."""
    if not has_teacher:
        return Losses(ce=Ce())
    return Losses(ce=Ce() if has_labels else None, dtkd=Dtkd(), kd=Kd(weight=1.0))
