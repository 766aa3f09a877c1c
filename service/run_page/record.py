"""What is known of a run, finished or not, from its folder."""

from pathlib import Path
from typing import NamedTuple

from service.pages.reliability import diagram_of
from service.pages.series import Series, Timeline, timeline
from service.run.durations import Durations, durations
from service.run.folder import TAGS_NAME
from service.run.journal import JOURNAL_NAME, Event, Kind, read_events
from service.run.predictions import (
    STUDENT_PREDICTIONS_NAME,
    TEACHER_PREDICTIONS_NAME,
    Reliability,
    predictions_if_usable,
)
from service.run.result import RESULT_NAME, RunResult
from service.run.state_files import read_if_usable
from service.run.status import Status, read_status
from service.spec.job import JobSpec


class RunRecord(NamedTuple):
    """One run.

    ``events``: of its journal. ``axis``: on which they are placed. ``tags``: what its last
    submission stored. ``diagrams``: reliability by whose it is, after the last epoch; without those
    that are not known.
    """

    spec: JobSpec
    events: list[Event]
    axis: Timeline
    status: Status
    times: Durations
    tags: dict[str, str]
    diagrams: dict[str, Reliability]

    def series(self, kind: Kind, metric: str) -> Series:
        """A metric over training; empty if it was not logged."""
        return self.axis.series(self.events, kind, metric)

    def evaluated(self, metric: str) -> Series:
        """A metric of the student's evaluations, such as top1."""
        return self.series("evaluation", f"{self.spec.dataset.evaluated}/{metric}")

    @property
    def teacher_top1(self) -> float | None:
        """The teacher's accuracy, 0 to 1, if it was evaluated."""
        found = [event.values.get("teacher/top1") for event in self.events]
        return next((value for value in found if value is not None), None)


def read_record(spec: JobSpec, run_path: Path) -> RunRecord:
    """What the folder has; what is damaged in it is left out.

    Raises:
        BadInputError: its journal is no file.
        OSError: the storage fails.
    """
    events = read_events(run_path / JOURNAL_NAME)
    names = {"teacher": TEACHER_PREDICTIONS_NAME, "student": STUDENT_PREDICTIONS_NAME}
    found = {side: diagram_of(predictions_if_usable(run_path / n)) for side, n in names.items()}
    return RunRecord(
        spec,
        events,
        timeline(events),
        read_status(run_path),
        _times(run_path),
        read_if_usable(run_path / TAGS_NAME, dict[str, str]) or {},
        {side: diagram for side, diagram in found.items() if diagram is not None},
    )


def _times(run_path: Path) -> Durations:
    """Those of a run's result, as everywhere else; up to now where it has none."""
    result = read_if_usable(run_path / RESULT_NAME, RunResult)
    return durations(run_path) if result is None else result.times
