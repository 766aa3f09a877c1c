"""Reads what is known of the runs of a comparison from their folders."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.compare.jobs import RunKey
from service.compare.records import RunRecord
from service.pages.series import timeline
from service.pages.temperatures import temperature_series
from service.run.journal import JOURNAL_NAME, Event, read_events
from service.run.predictions import (
    STUDENT_PREDICTIONS_NAME,
    TEACHER_PREDICTIONS_NAME,
    Predictions,
    predictions_if_usable,
)
from service.run.result import read_result
from service.run.status import read_status
from service.spec.job import JobSpec
from service.training.peak_memory import PEAK_MEMORY_METRIC
from service.trials.source import TrialState


class RunRecords:
    """The records of a comparison's runs; what a finished run has is read once."""

    def __init__(self, specs: Mapping[RunKey, JobSpec]):
        self._specs = specs
        self._finished: dict[RunKey, RunRecord] = {}

    def read(
        self, states: Mapping[Path, TrialState], errors: Mapping[Path, str]
    ) -> list[RunRecord]:
        """All runs in their order; states and errors by folder.

        A run without a state waits, or failed in an earlier submission.
        """
        records = []
        for key, spec in self._specs.items():
            state, error = states.get(spec.run_path), errors.get(spec.run_path)
            if state is None:
                state, error = stored_state(spec.run_path)
            records.append(self._read(key, state, error))
        return with_teacher_of_pair(records, [_network_of(spec) for spec in self._specs.values()])

    def _read(self, key: RunKey, state: TrialState, error: str | None) -> RunRecord:
        if key not in self._finished:
            record = read_record(key, self._specs[key], state, error)
            if record.state != "finished":
                return record
            self._finished[key] = record
        return self._finished[key]


def with_teacher_of_pair(
    records: Sequence[RunRecord], teachers: Sequence[str | None]
) -> list[RunRecord]:
    """The records, in which students without a teacher are beside the only one that their pair has.

    How often they agree with it anyway is what distillation adds to. ``teachers``: what identifies
    each run's teacher. Predictions do not: on GPUs a few of them differ between runs by rounding.
    """
    known: dict[str, dict[str | None, Predictions]] = defaultdict(dict)
    for record, teacher in zip(records, teachers, strict=True):
        if record.teacher is not None:
            known[record.pair].setdefault(teacher, record.teacher)
    return [
        record._replace(teacher=next(iter(known[record.pair].values())))
        if record.student is not None and record.teacher is None and len(known[record.pair]) == 1
        else record
        for record in records
    ]


def _network_of(spec: JobSpec) -> str | None:
    if spec.teacher is None:
        return None
    return spec.teacher.model_dump_json(exclude={"cache", "min_top1", "min_top1_images"})


def stored_state(run_path: Path) -> tuple[TrialState, str | None]:
    """The state of a run that no submission trains now, and why it failed if it did."""
    status = read_status(run_path)
    if status.state != "failed":
        return "waiting", None
    return "failed", status.last_failure or "its journal says why"


def read_record(key: RunKey, spec: JobSpec, state: TrialState, error: str | None) -> RunRecord:
    """The record of one run; it has finished if it has a result, whatever ``state`` says.

    Raises:
        BadInputError: its result is damaged.
        OSError: the storage fails.
    """
    folder, result = spec.run_path, read_result(spec.run_path)
    events = read_events(folder / JOURNAL_NAME)
    speeds = _values(events, "interval", "speed/images_per_s")
    peaks = _values(events, "evaluation", PEAK_MEMORY_METRIC)
    axis = timeline(events)
    record = RunRecord(
        *key.variant,
        key.seed,
        "waiting" if state == "finished" else state,
        spec.schedule.num_epochs,
        curve=tuple(
            (float(event.epoch), event.values["val/top1"])
            for event in events
            if event.kind == "evaluation" and "val/top1" in event.values
        ),
        images_per_s=statistics.median(speeds) if speeds else None,
        peak_memory_bytes=max(peaks, default=None),
        temperatures=temperature_series(events, axis) if axis.counts_epochs else {},
        error=error,
    )
    if result is None:
        return record
    progress = result.progress
    return record._replace(
        state="finished",
        last_top1=progress.last_top1,
        last_top5=progress.last_top5,
        best_top1=progress.best_top1,
        best_epoch=progress.best_epoch,
        seconds=result.training_s,
        student=predictions_if_usable(folder / STUDENT_PREDICTIONS_NAME),
        teacher=predictions_if_usable(folder / TEACHER_PREDICTIONS_NAME),
        error=None,
    )


def _values(events: list[Event], kind: str, name: str) -> list[float]:
    return [e.values[name] for e in events if e.kind == kind and name in e.values]
