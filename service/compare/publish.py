"""Logs a comparison to MLflow: a run above its runs, with the table, the figures and the page."""

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlflow.entities import Metric

from service.compare.frames import result_figures
from service.compare.jobs import run_specs
from service.compare.outcome import PAGE_NAME, Outcome, artifacts, outcome_of, write_outcome
from service.compare.reading import RunRecords
from service.compare.records import VariantResult
from service.compare.resuming import read_comparison
from service.compare.spec import CompareSpec, Variant
from service.compare.statistics import BASE_VERDICT
from service.compare.table import recipe_remarks
from service.compare.tuned_space import TUNING_NAME
from service.compare.tuning import found_settings
from service.run.folder import RUNS_NAME, TRIALS_NAME, read_tags
from service.tracking.description import described_table, page_link, set_description
from service.tracking.markdown import escaped
from service.tracking.mlflow_run import MAX_METRICS_PER_CALL, MlflowRun
from service.trials.child_runs import child_folders, publish_parent, synced

TAG_PREFIX, METRIC_PREFIX = "compare.", "compare/"


def child_runs(compare: CompareSpec) -> Iterator[Path]:
    """The folders of all runs in the comparison's folder, and of the trials of its searches.

    Raises:
        BadInputError: one of them is a link, which may lead to somebody else's run.
    """
    folder = compare.compare_path
    searches = list(child_folders([folder / TUNING_NAME]))
    yield from child_folders([folder / RUNS_NAME, *(path / TRIALS_NAME for path in searches)])


def publish_comparison(
    outcome: Outcome, tags: Mapping[str, str], *, is_stopped: bool
) -> str | None:
    """Log the outcome to MLflow and return the URL of its run; None if that failed.

    The function is idempotent: the same outcome adds nothing. The latest metrics are those of
    the outcome; metrics of rows that are gone, which MLflow cannot delete, become NaN.
    """
    compare = outcome.compare

    def send(parent: MlflowRun) -> str:
        _log_outcome(outcome, parent, tags)
        status = "FINISHED" if outcome.are_finished else "FAILED"
        return "KILLED" if is_stopped else status

    return publish_parent(compare.as_job(), lambda: child_runs(compare), send)


def _log_outcome(outcome: Outcome, parent: MlflowRun, tags: Mapping[str, str]) -> None:
    compare = outcome.compare
    all_tags = dict(tags)
    all_tags[f"{TAG_PREFIX}seeds"] = ", ".join(map(str, compare.seeds))
    if remarks := recipe_remarks(compare):
        all_tags[f"{TAG_PREFIX}other_recipes"] = "; ".join(remarks)
    verdicts = {
        Variant(result.pair, result.variant).label: result.verdict
        for result in outcome.results
        if result.verdict != BASE_VERDICT
    }
    all_tags |= {f"{TAG_PREFIX}{label}": verdict for label, verdict in verdicts.items()}
    logged = parent.client.get_run(parent.run_id).data
    for tag in logged.tags:
        if tag.startswith(TAG_PREFIX) and tag not in all_tags:
            # Of a row that is gone.
            parent.client.delete_tag(parent.run_id, tag)
    parent.set_tags(all_tags)
    parent.log_datasets(tags)
    figures = {
        name: value for result in outcome.results for name, value in _figures(result).items()
    }
    _log_figures(parent, figures, logged.metrics)
    for path in artifacts(compare.compare_path):
        parent.client.log_artifact(parent.run_id, str(path))
    parts = [
        page_link(parent, PAGE_NAME),
        escaped("; ".join(f"{k}: {v}" for k, v in verdicts.items())),
    ]
    set_description(parent, parts, described_table(outcome.table))


def _log_figures(
    parent: MlflowRun, figures: Mapping[str, float], logged: Mapping[str, float]
) -> None:
    """Log the figures that differ from the latest ones in MLflow, ``logged``."""
    gone = [name for name in logged if name.startswith(METRIC_PREFIX) and name not in figures]
    wanted = {**figures, **dict.fromkeys(gone, math.nan)}
    # At one time, MLflow would take the largest value for the latest.
    now_ms = int(time.time() * 1000)
    metrics = [
        Metric(name, value, now_ms, 0)
        for name, value in wanted.items()
        if name not in logged or not _are_equal(value, logged[name])
    ]
    for start in range(0, len(metrics), MAX_METRICS_PER_CALL):
        batch = metrics[start : start + MAX_METRICS_PER_CALL]
        parent.client.log_batch(parent.run_id, metrics=batch)


def _are_equal(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))


def _figures(result: VariantResult) -> dict[str, float]:
    """The known figures of a row as metrics."""
    prefix = METRIC_PREFIX + "/".join(filter(None, (result.pair, result.variant)))
    figures = {"num_seeds": float(len(result.top1)), **result_figures(result)}
    return {f"{prefix}/{name}": value for name, value in figures.items() if value is not None}


def sync_comparison(compare_path: Path) -> str:
    """Send the missing data of a comparison and its runs to MLflow; returns a line for the log.

    Raises:
        BadInputError, one of TRACKING_ERRORS: see ``synced``.
    """
    compare = read_comparison(compare_path)
    with synced(compare.as_job(), lambda: child_runs(compare)):
        settings = found_settings(compare)
        records = RunRecords(run_specs(compare, settings)).read({}, {})
        outcome = outcome_of(compare, records, settings)
        write_outcome(outcome)
        tags = read_tags(compare_path)
        is_stopped = any(record.state == "waiting" for record in records)
        address = publish_comparison(outcome, tags, is_stopped=is_stopped)
        if address is None:
            raise OSError("MLflow did not accept all of the comparison")
    return f"{compare.name}: sent the comparison and its {len(outcome.records)} runs, {address}"
