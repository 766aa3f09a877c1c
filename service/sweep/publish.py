"""Logs a sweep to MLflow: best settings, table and page; and registers the best student."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from service.publish import log_and_register, log_description
from service.run.folder import TRIALS_NAME, read_spec, read_tags
from service.run.report import metric_text, print_now
from service.run.result import read_result
from service.spec.mlflow_rules import MAX_PARAM_LENGTH
from service.sweep.analysis import counts_text
from service.sweep.confirm import CONFIRM_NAME
from service.sweep.outcome import PAGE_NAME, Outcome, artifacts, write_outcome
from service.sweep.progress import summary
from service.sweep.resuming import read_sweep
from service.sweep.spec import SWEEP_NAME, SweepSpec
from service.sweep.study import Search
from service.sweep.trials import trial_name
from service.tracking.dataset_inputs import log_run_datasets
from service.tracking.description import described_table, page_link, set_description
from service.tracking.markdown import escaped
from service.tracking.mlflow_run import MlflowRun, tracking_uri
from service.trials.child_runs import child_folders, publish_parent, synced


def publish_sweep(
    sweep: SweepSpec, tags: dict[str, str], outcome: Outcome, *, is_stopped: bool
) -> str | None:
    """Log the sweep's outcome to MLflow and return the URL of its run; None if that failed.

    The function is idempotent: repeated calls create no duplicates.
    """

    def send(parent: MlflowRun) -> str:
        _log_outcome(sweep, parent, tags, outcome, is_final=not is_stopped)
        if outcome.best is not None and not is_stopped:
            register_best_student(sweep, outcome)
        return "KILLED" if is_stopped else "FINISHED" if outcome.best else "FAILED"

    return publish_parent(sweep.as_job(), lambda: run_folders(sweep), send)


def run_folders(sweep: SweepSpec) -> Iterator[Path]:
    """The folders of the sweep's runs: trials, then confirming runs.

    Raises:
        BadInputError: one of them is a link, which may lead to somebody else's run.
    """
    yield from child_folders(sweep.sweep_path / name for name in (TRIALS_NAME, CONFIRM_NAME))


def _log_outcome(
    sweep: SweepSpec,
    parent: MlflowRun,
    tags: dict[str, str],
    outcome: Outcome,
    *,
    is_final: bool,
) -> None:
    best, client = outcome.best, parent.client
    text = summary(sweep, outcome.records)
    all_tags = {**tags, "sweep.trials": counts_text(outcome.records)}
    if outcome.comparison is not None:
        text += f"\n\n{outcome.comparison}"
        all_tags["sweep.confirmed"] = outcome.comparison.verdict
    if best is not None:
        all_tags["sweep.best_trial"] = str(best.number)
        params = {f"best.{path}": json.dumps(value) for path, value in best.params.items()}
        all_tags |= {key: value[:MAX_PARAM_LENGTH] for key, value in params.items()}
        if is_final:
            # Parameters of a run cannot be changed: if a search with a larger budget finds better
            # settings, only the tags show them.
            with contextlib.suppress(MlflowException):
                entries = [Param(key, value[:MAX_PARAM_LENGTH]) for key, value in params.items()]
                client.log_batch(parent.run_id, params=entries)
        assert best.score is not None, "the best has a score"
        figures = {
            f"sweep/held_out_best_{sweep.metric}": best.score,
            "sweep/num_tried": len(outcome.records),
        }
        # A fixed time, so that MLflow drops the duplicate when it is sent again.
        result = read_result(sweep.sweep_path / TRIALS_NAME / trial_name(best.number))
        assert result is not None, "the best has finished"
        metrics = [Metric(key, float(value), result.time_ms, 0) for key, value in figures.items()]
        client.log_batch(parent.run_id, metrics=metrics)
    parent.set_tags(all_tags)
    # Trials read no val.
    held_out = sweep.base.dataset.model_copy(update={"held_out": sweep.held_out})
    trials = sweep.as_job().model_copy(update={"dataset": held_out})
    log_run_datasets(client, parent.run_id, trials, tags)
    if outcome.comparison is not None:
        parent.log_datasets(tags)
    for path in artifacts(sweep.sweep_path):
        client.log_artifact(parent.run_id, str(path))
    parts = [page_link(parent, PAGE_NAME), escaped(_best_text(sweep, outcome))]
    set_description(parent, parts, described_table(text))


def _best_text(sweep: SweepSpec, outcome: Outcome) -> str:
    """The best trial, and the verdict of the confirming runs, in a line."""
    best, comparison = outcome.best, outcome.comparison
    if best is None or best.score is None:
        return "No trial has finished."
    text = f"Best: trial {best.number}, {sweep.metric_name} {metric_text(best.score, sweep.metric)}"
    return text if comparison is None else f"{text}; confirmed: {comparison.verdict}"


def register_best_student(sweep: SweepSpec, outcome: Outcome) -> None:
    """Register the student with the best settings under the base's register_as, if that is set.

    It is the student of the first confirming run, or of the best trial without confirming runs. It
    is not the best of the confirming runs, because that would select a seed on val.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not respond.
    """
    tracking = sweep.base.tracking
    if tracking.register_as is None:
        return
    assert outcome.best is not None, "the caller checks it"
    run_path = sweep.sweep_path / CONFIRM_NAME / f"best-seed-{sweep.base.seed}"
    if outcome.comparison is None or read_result(run_path) is None:
        run_path = sweep.sweep_path / TRIALS_NAME / trial_name(outcome.best.number)
    spec = read_spec(run_path)
    names = {"register_as": tracking.register_as, "promote": tracking.promote}
    spec_to_register = spec.model_copy(update={"tracking": spec.tracking.model_copy(update=names)})
    result = read_result(run_path)
    assert result is not None, "the best has finished"
    run = MlflowRun(spec, tracking_uri(sweep.base))
    registered = log_and_register(run, spec_to_register, result)
    log_description(run, spec, result, registered)
    run.end("FINISHED")
    if registered is not None and registered.promotion is not None:
        print_now(f"promotion: {registered.promotion}")


def is_sweep(path: Path) -> bool:
    """Whether the folder is that of a sweep."""
    return (path / SWEEP_NAME).exists()


def sync_sweep(sweep_path: Path) -> str:
    """Send the missing data of a sweep and its runs to MLflow; returns a line for the log.

    Raises:
        BadInputError, one of TRACKING_ERRORS: see ``synced``.
    """
    sweep = read_sweep(sweep_path)
    with synced(sweep.as_job(), lambda: run_folders(sweep)):
        search = Search(sweep)
        outcome = write_outcome(sweep, search.records())
        tags = read_tags(sweep_path)
        address = publish_sweep(sweep, tags, outcome, is_stopped=not search.is_over)
        if address is None:
            raise OSError("MLflow did not accept all of the sweep")
    return f"{sweep.name}: sent the sweep and its {len(outcome.records)} trials, {address}"
