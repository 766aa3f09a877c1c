"""What a sweep knows of its trials; everything that is shown of it is made from these."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

TrialState = Literal["waiting", "running", "finished", "stopped", "failed"]
"""stopped: by the scheduler, before its last epoch. waiting: will be begun, or gone on with."""


class TrialRecord(NamedTuple):
    """One setting that was tried, whatever came of it.

    ``params``: values by path, without those that do not apply to this trial. ``score``: the
    metric at the last epoch reached, None before the first. ``curve``: (epochs done, metric) of
    each evaluation. ``seconds``: wall time in training. ``error``: why it failed.
    """

    number: int
    state: TrialState
    params: Mapping[str, object]
    score: float | None
    curve: tuple[tuple[int, float], ...]
    seconds: float
    num_failures: int = 0
    error: str | None = None
