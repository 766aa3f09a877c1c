"""What is known of each run of a comparison, and of each variant over its seeds."""

from collections.abc import Mapping
from typing import NamedTuple

from service.pages.series import Series
from service.run.predictions import Predictions
from service.trials.source import TrialState


class RunRecord(NamedTuple):
    """One run: a variant of one pair of teacher and student, with one seed.

    ``pair``: "" in a comparison without pairs. ``curve``: top-1 on val, 0 to 1, of each evaluation.
    ``last_top1``, ``last_top5``: of the last epoch; ``best_top1``: of the best one, ``best_epoch``;
    None until the run has finished. ``num_epochs``: of its schedule. ``seconds``: of training and
    evaluation. ``images_per_s``: of training steps, over all workers. ``peak_memory_bytes``: of the
    largest worker. ``temperatures``: over training, by metric name: statistics over the samples,
    such as dtkd/teacher_temperature_p95, or one of all, such as ctkd/temperature. ``student``,
    ``teacher``: what they predicted for val after the last epoch, if it is known. ``error``: why
    the run failed.
    """

    pair: str
    variant: str
    seed: int
    state: TrialState
    num_epochs: int
    curve: Series = ()
    last_top1: float | None = None
    last_top5: float | None = None
    best_top1: float | None = None
    best_epoch: int | None = None
    seconds: float = 0.0
    images_per_s: float | None = None
    peak_memory_bytes: float | None = None
    temperatures: Mapping[str, Series] = {}
    student: Predictions | None = None
    teacher: Predictions | None = None
    error: str | None = None


class VariantResult(NamedTuple):
    """A variant of one pair over the seeds that have finished, beside the base.

    ``top1``: of the last epoch by seed, 0 to 1; ``mean`` and ``deviation`` (of the sample) of it,
    None without enough seeds. ``best_mean``: mean of the best epochs. ``difference``: mean of the
    differences to the base, paired by seed. ``interval``: of the difference, at the level of
    Holm's step. ``p_value``: of the paired t-test; ``p_holm``: corrected for the number of
    comparisons. All of these are None for the base. ``verdict``: in words.
    """

    pair: str
    variant: str
    is_base: bool
    top1: Mapping[int, float]
    mean: float | None
    deviation: float | None
    best_mean: float | None
    difference: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    p_holm: float | None
    verdict: str
