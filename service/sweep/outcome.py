"""Writes the files of a sweep: best settings as a job, table of trials, and page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from data_pipeline.files import is_regular, write_atomically
from service.spec.job import JobSpec
from service.sweep.analysis import (
    STATE_WORDS,
    TrialRecord,
    best_first,
    best_of,
    fastest_front,
    states_text,
)
from service.sweep.comparison import COMPARISON_NAME, Comparison, read_comparison
from service.sweep.page import render_sweep_page
from service.sweep.progress import ONE_FINISHED_NOTE, has_one_finished_only, point_text, score_text
from service.sweep.space import Point, given_content, with_values
from service.sweep.spec import SWEEP_NAME, SweepSpec

BEST_NAME = "best.json"
FRONT_NAME = "front.json"
TABLE_NAME = "trials.csv"
PAGE_NAME = "sweep.html"


class Outcome(NamedTuple):
    """The outcome of a sweep.

    ``best``: the best trial, None if none finished. ``comparison``: of its settings with the base's
    own, None without --confirm.
    """

    records: tuple[TrialRecord, ...]
    best: TrialRecord | None
    comparison: Comparison | None


def job_with(sweep: SweepSpec, point: Point, name: str) -> JobSpec:
    """The base with a point's settings as a job called ``name``, without held-out images."""
    content = with_values(given_content(sweep.base), point)
    # The files that it names are not read again: the sweep has checked them.
    return JobSpec.model_validate({**content, "name": name})


def write_outcome(sweep: SweepSpec, records: Sequence[TrialRecord]) -> Outcome:
    """Write all files for the trials so far, and return the outcome."""
    folder = sweep.sweep_path
    best = best_of(sweep, records)
    outcome = Outcome(tuple(records), best, read_comparison(folder))
    write_atomically(folder / TABLE_NAME, _as_csv(table(sweep, records)))
    if outcome.best is not None:
        job = job_with(sweep, dict(outcome.best.params), f"{sweep.name}-best")
        write_atomically(folder / BEST_NAME, job.model_dump_json(indent=1) + "\n")
    front = time_front(sweep, records)
    if front is not None:
        content = [
            {"trial": r.number, sweep.metric_name: r.score, "seconds": r.seconds, **r.params}
            for r in front
        ]
        write_atomically(folder / FRONT_NAME, json.dumps(content, indent=1) + "\n")
    comparison, rows = str(outcome.comparison or ""), table(sweep, ranked(sweep, records))
    page = render_sweep_page(sweep, records, page_summary(sweep, outcome), comparison, front, rows)
    write_atomically(folder / PAGE_NAME, page)
    return outcome


def time_front(sweep: SweepSpec, records: Sequence[TrialRecord]) -> list[TrialRecord] | None:
    """The Pareto front of metric and time; None unless time is minimized."""
    if not sweep.minimize_time:
        return None
    return fastest_front(records, maximizes=sweep.maximizes)


def page_summary(sweep: SweepSpec, outcome: Outcome) -> list[tuple[str, str]]:
    """The rows at the top of the page."""
    best = outcome.best
    rows = [
        ("Settings tried", f"{len(outcome.records)}: {states_text(outcome.records)}"),
        ("Algorithm", f"{sweep.algorithm.kind}, seed {sweep.algorithm.seed}"),
        ("Scheduler", sweep.scheduler.kind),
        (
            "Scored on",
            f"{sweep.held_out.num_images} images of train, held out by class with seed "
            f"{sweep.held_out.seed}; val was not evaluated",
        ),
    ]
    if best is not None:
        rows += [
            (
                "Best",
                f"trial {best.number}, {sweep.metric_name} {score_text(sweep, best.score)}, of "
                f"{len(outcome.records)} settings tried",
            ),
            ("Best settings", point_text(best)),
        ]
        if has_one_finished_only(outcome.records):
            rows.append(("Note", ONE_FINISHED_NOTE))
    return rows


def ranked(sweep: SweepSpec, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """By state, finished first; within a state by score, best first."""
    states = list(STATE_WORDS)
    best = best_first(records, sweep.maximizes)
    return sorted(best, key=lambda record: states.index(record.state))


def table(sweep: SweepSpec, records: Sequence[TrialRecord]) -> pd.DataFrame:
    """All trials, including failed and stopped ones, a row each; empty texts where values lack."""
    names = ["trial", "state", sweep.metric_name, "epochs", "seconds", "failures"]
    rows = [
        [
            record.number,
            record.state,
            "" if record.score is None else record.score,
            record.curve[-1][0] if record.curve else 0,
            round(record.seconds, 1),
            record.num_failures,
            *(record.params.get(path, "") for path in sweep.space),
            # A progress bar's text has carriage returns, which CSV takes for ends of rows.
            (record.error or "").replace("\r", "\n"),
        ]
        for record in records
    ]
    return pd.DataFrame(rows, columns=[*names, *sweep.space, "error"], dtype=object)


def _as_csv(table: pd.DataFrame) -> str:
    cells = table.map(lambda value: value if isinstance(value, str) else json.dumps(value))
    return str(cells.to_csv(index=False, lineterminator="\n"))


def artifacts(folder: Path) -> list[Path]:
    """The existing files of a sweep's folder that are logged to MLflow; no links."""
    names = (BEST_NAME, FRONT_NAME, TABLE_NAME, PAGE_NAME, SWEEP_NAME, COMPARISON_NAME)
    return [path for name in names if is_regular(path := folder / name)]
