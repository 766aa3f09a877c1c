"""Writes the files of a comparison: table of runs, table of results, and page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipeline.files import is_regular, write_atomically
from service.compare.frames import results_frame, runs_frame
from service.compare.page import render_compare_page
from service.compare.records import RunRecord, VariantResult
from service.compare.spec import COMPARE_NAME, CompareSpec, Variant
from service.compare.statistics import compare_variants
from service.compare.summary import VariantSummary, summarize
from service.compare.table import (
    missing_predictions,
    recipe_remarks,
    results_table,
    tuning_rows,
)
from service.run.report import duration
from service.run.student_card import read_classes
from service.sweep.space import Point

RUNS_TABLE_NAME = "runs.csv"
RESULTS_NAME = "results.csv"
TABLE_NAME = "results.txt"
PAGE_NAME = "compare.html"


class Outcome(NamedTuple):
    """What is known of a comparison so far.

    ``records``: of all runs. ``summaries``: of all rows. ``settings``: what tuning found for each
    row.
    """

    compare: CompareSpec
    records: tuple[RunRecord, ...]
    summaries: tuple[VariantSummary, ...]
    settings: Mapping[Variant, Point]

    @property
    def results(self) -> list[VariantResult]:
        """The accuracy of each row."""
        return [summary.result for summary in self.summaries]

    @property
    def table(self) -> str:
        """The results as text."""
        return results_table(self.compare, self.summaries, self.settings)

    @property
    def are_finished(self) -> bool:
        """Whether every run has finished."""
        return all(record.state == "finished" for record in self.records)


def outcome_of(
    compare: CompareSpec, records: Sequence[RunRecord], settings: Mapping[Variant, Point]
) -> Outcome:
    """The outcome of the runs so far."""
    results = compare_variants(compare, records)
    summaries = summarize(records, results, compare.base.dataset.num_classes)
    return Outcome(compare, tuple(records), tuple(summaries), settings)


def write_outcome(outcome: Outcome) -> None:
    """Write all files, each atomically.

    Raises:
        OSError: the storage fails.
    """
    compare, records, summaries, settings = outcome
    folder = compare.compare_path
    frames = {
        RUNS_TABLE_NAME: runs_frame(summaries),
        RESULTS_NAME: results_frame(compare, summaries, settings),
    }
    for name, frame in frames.items():
        write_atomically(folder / name, frame.to_csv(index=False, lineterminator="\n"))
    write_atomically(folder / TABLE_NAME, outcome.table + "\n")
    classes = read_classes(folder)
    page = render_compare_page(compare, records, summaries, page_facts(outcome), classes)
    write_atomically(folder / PAGE_NAME, page)


def page_facts(outcome: Outcome) -> list[tuple[str, str]]:
    """The rows at the top of the page."""
    compare, records = outcome.compare, outcome.records
    states = ("finished", "failed", "running", "waiting")
    counts = ((sum(r.state == state for r in records), state) for state in states)
    facts = [
        ("Runs", f"{len(records)}: " + ", ".join(f"{n} {state}" for n, state in counts if n)),
        ("Seeds", ", ".join(map(str, compare.seeds))),
        ("Training", duration(sum(record.seconds for record in records))),
    ]
    facts += [("Recipe", line) for line in recipe_remarks(compare)]
    facts += [("Predictions", line) for line in missing_predictions(outcome.summaries)]
    if compare.tuned is not None:
        images = f"{compare.tuned.held_out.num_images:,} held-out images of train"
        text = f"{compare.tuned.trials} trials of each variant on {images}; val was not read"
        facts.append(("Tuned", text))
    rows = tuning_rows(compare, outcome.settings)
    facts += [(f"Settings of {label}", text) for label, text in rows]
    facts += [
        (f"Failed: {Variant(r.pair, r.variant).label}", f"seed {r.seed}: {r.error or 'unknown'}")
        for r in records
        if r.state == "failed"
    ]
    return facts


def artifacts(folder: Path) -> list[Path]:
    """The existing files of a comparison's folder that are logged to MLflow; no links."""
    names = (COMPARE_NAME, RUNS_TABLE_NAME, RESULTS_NAME, TABLE_NAME, PAGE_NAME)
    return [path for name in names if is_regular(path := folder / name)]
