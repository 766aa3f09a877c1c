"""Which of a run's students MLflow has as models, beside the final one."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Tag

from service.spec.errors import Problem
from service.spec.fields import Count, Section


class TrackedCheckpoints(Section):
    """Which evaluated students MLflow has as models, beside the final one."""

    every_evaluations: Count = 1
    """Evaluations between two of them; the last evaluation is that of the final student, which is
    logged in any case."""
    newest: Count = 3
    """How many of the newest are kept in MLflow, and in the run's folder while MLflow is away; a
    registered one stays."""
    only_best: bool = False
    """Whether only those with the best top-1 so far are logged."""


def _checkpoints_kind(value: object) -> str:
    """Anything but an object is taken as a word, of which the error names those there are."""
    return "section" if isinstance(value, Mapping | TrackedCheckpoints) else "word"


CheckpointsToTrack = Annotated[
    Annotated[Literal["last", "best"], Tag("word")] | Annotated[TrackedCheckpoints, Tag("section")],
    Discriminator(_checkpoints_kind),
]


def tracked_checkpoints_problems(
    tracked: TrackedCheckpoints, num_evaluations: int
) -> Iterator[Problem]:
    """Settings by which no other student than the final one would ever be logged, or not as meant.

    ``num_evaluations``: of the whole run; the last one is the final student's.
    """
    where, number = "tracking.checkpoints.every_evaluations", tracked.every_evaluations
    if tracked.only_best and number > 1:
        wrong = f"is {number}, but only_best looks at each evaluation"
        yield Problem(where, wrong, "remove it, or set only_best to false")
    # With one evaluation, as in the runs that confirm a sweep, there is only the final student.
    elif 1 < num_evaluations <= number:
        wrong = f"is {number}, but the run has {num_evaluations} evaluations, the last included"
        yield Problem(where, wrong, f"give at most {num_evaluations - 1}")
