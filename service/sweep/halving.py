"""Early stopping by successive halving that is aware of the metric's noise."""

import math
from collections.abc import Sequence

from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial


class NoiseAwareHalving(BasePruner):
    """Stops a trial at a rung where it is clearly not among the best 1 / ``reduction_factor``.

    A rung decides only once ``reduction_factor`` trials reached it: the first of them, such as the
    base's own settings, would otherwise be compared with nothing and all later ones with them.
    A trial continues if it is worse than the cut by no more than the standard error of the
    difference of two accuracies on ``num_images`` images; None for a metric that is no accuracy.

    It reads the trials' curves only, so that rungs may change when a search is resumed.

    Source: Li et al., arXiv 1810.05934, without promotions of stopped trials.
    """

    def __init__(self, rungs: Sequence[int], reduction_factor: int, num_images: int | None):
        self._rungs, self._factor, self._num_images = list(rungs), reduction_factor, num_images

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial, evaluated at its last step, must stop."""
        step = trial.last_step
        if step is None:
            return False
        score = trial.intermediate_values[step]
        reached = [rung for rung in self._rungs if _first_step(trial, rung) == step]
        if reached and math.isnan(score):
            return True
        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        trials = study.get_trials(deepcopy=False)
        return any(self._is_below_cut(rung, score, trials, sign) for rung in reached)

    def _is_below_cut(
        self, rung: int, score: float, trials: Sequence[FrozenTrial], sign: int
    ) -> bool:
        steps = [(trial, _first_step(trial, rung)) for trial in trials]
        scores = [t.intermediate_values[step] for t, step in steps if step is not None]
        ranked = sorted((s for s in scores if not math.isnan(s)), key=lambda s: -sign * s)
        if len(ranked) < self._factor:
            return False
        cut = ranked[len(ranked) // self._factor - 1]
        return sign * (cut - score) > self._margin(score, cut)

    def _margin(self, score: float, cut: float) -> float:
        """Standard error of the difference of two accuracies between 0 and 1."""
        if self._num_images is None:
            return 0.0
        return math.sqrt((score * (1 - score) + cut * (1 - cut)) / self._num_images)


def _first_step(trial: FrozenTrial, rung: int) -> int | None:
    """The trial's first evaluation at or after the rung; None if it has none yet."""
    return min((step for step in trial.intermediate_values if step >= rung), default=None)
