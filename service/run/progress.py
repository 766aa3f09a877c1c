"""How far a run is and what it has measured; part of each checkpoint and of the result."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, with_config

from service.run.state_files import WITHOUT_OTHER_FIELDS

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@with_config(WITHOUT_OTHER_FIELDS)
@dataclass
class Progress:
    """Counters and accuracies of a run.

    ``step`` counts optimizer steps done, ``epoch`` whole epochs done, ``step_in_epoch`` steps of
    the current epoch, ``skipped`` the steps among them whose gradient was not finite. Accuracies
    are shares (0 to 1); ``best_*`` are those of the evaluation with the best top-1, after
    ``best_epoch`` epochs. ``last_nonfinite``: images of the last evaluation whose logits were not
    finite.
    """

    step: Count = 0
    epoch: Count = 0
    step_in_epoch: Count = 0
    skipped: Count = 0
    last_top1: Share | None = None
    last_top5: Share | None = None
    best_top1: Share | None = None
    best_top5: Share | None = None
    best_epoch: Count | None = None
    last_nonfinite: Count = 0
    teacher_top1: Share | None = None
    teacher_top5: Share | None = None

    def record_evaluation(
        self, top1: float, top5: float, epoch: int, num_nonfinite: int = 0
    ) -> None:
        """Take the student's accuracy after ``epoch`` whole epochs."""
        self.last_top1, self.last_top5, self.last_nonfinite = top1, top5, num_nonfinite
        if self.best_top1 is None or top1 > self.best_top1:
            self.best_top1, self.best_top5, self.best_epoch = top1, top5, epoch
