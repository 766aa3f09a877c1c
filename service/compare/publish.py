"""Logs a comparison to MLflow: a run above its runs, with the table, the figures and the page."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlflow.entities import Metric

from data_pipeline.files import write_atomically
from service.compare.frames import result_figures
from service.compare.jobs import run_specs
from service.compare.outcome import Outcome, artifacts, outcome_of, write_outcome
from service.compare.reading import RunRecords
from service.compare.records import VariantResult
from service.compare.resuming import read_comparison
from service.compare.spec import CompareSpec, Variant
from service.compare.statistics import BASE_VERDICT
from service.compare.table import recipe_remarks
from service.compare.tuned_space import TUNING_NAME
from service.compare.tuning import found_settings
from service.run.folder import RUNS_NAME, TRIALS_NAME, read_tags
from service.run.result import read_result
from service.tracking.mlflow_run import MlflowRun, tracking_uri
from service.trials.child_runs import child_folders, move_runs, set_parent, synced
from service.trials.run_trackers import find_parent

logger = logging.getLogger(__name__)

NOTE_TAG = "mlflow.note.content"
PUBLISHED_NAME = "mlflow_address"


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

    The function is idempotent: repeated calls create no duplicates.
    """
    compare = outcome.compare
    parent = find_parent(compare.as_job(), tracking_uri(compare.base))
    if parent is None:
        return None
    try:
        set_parent(child_runs(compare), parent)
        move_runs(child_runs(compare), parent.uri)
        _log_outcome(outcome, parent, tags)
        status = "FINISHED" if outcome.are_finished else "FAILED"
        parent.end("KILLED" if is_stopped else status)
    except Exception as error:
        # Any error: the comparison itself is complete and can be sent later.
        logger.warning(
            "MLflow did not accept all of the comparison (%s); python jobs/sync.py %s sends the "
            "rest",
            error,
            compare.compare_path,
        )
        return None
    write_atomically(compare.compare_path / PUBLISHED_NAME, parent.address + "\n")
    return parent.address


def _log_outcome(outcome: Outcome, parent: MlflowRun, tags: Mapping[str, str]) -> None:
    compare, client = outcome.compare, parent.client
    all_tags = {**tags, NOTE_TAG: f"```\n{outcome.table}\n```"}
    all_tags["compare.seeds"] = ", ".join(map(str, compare.seeds))
    if remarks := recipe_remarks(compare):
        all_tags["compare.other_recipes"] = "; ".join(remarks)
    for result in outcome.results:
        if result.verdict != BASE_VERDICT:
            label = Variant(result.pair, result.variant).label
            all_tags[f"compare.{label}"] = result.verdict
    parent.set_tags(all_tags)
    if time_ms := _last_result_ms(compare):
        metrics = [
            Metric(name, value, time_ms, 0)
            for result in outcome.results
            for name, value in _figures(result).items()
        ]
        client.log_batch(parent.run_id, metrics=metrics)
    for path in artifacts(compare.compare_path):
        client.log_artifact(parent.run_id, str(path))


def _last_result_ms(compare: CompareSpec) -> int:
    """When the last run was done, so that MLflow drops what is sent again; 0 before the first."""
    results = (read_result(spec.run_path) for spec in run_specs(compare).values())
    return max((result.time_ms for result in results if result is not None), default=0)


def _figures(result: VariantResult) -> dict[str, float]:
    """The known figures of a row as metrics."""
    prefix = "/".join(["compare", *filter(None, (result.pair, result.variant))])
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
