"""Cross-entropy with the labels."""

from typing import ClassVar, Literal

from service.spec.losses.base import LossSection


class Ce(LossSection):
    """Cross-entropy with the labels; training.label_smoothing and mixed labels apply to it."""

    needs_teacher: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True

    views: Literal["weak", "both"] = "weak"
    """both: the sum over the weak and the strong view of each image, as MLKD and CRLD have it."""

    @property
    def needs_strong_view(self) -> bool:
        """Whether it is that of both."""
        return self.views == "both"
