"""A sweep's own run in MLflow: the best settings, the table, the pictures; the winner's name."""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from service.cluster.run_folder import SPEC_NAME, TAGS_NAME
from service.files import write_atomically
from service.result import read_result
from service.spec import JobSpec
from service.sweep.confirm import CONFIRM_NAME
from service.sweep.outcome import PICTURES_NAME, Outcome, artifacts
from service.sweep.progress import summary
from service.sweep.spec import SweepSpec
from service.sweep.tracking import PARENT_TAG, find_parent
from service.sweep.trials import TRIALS_NAME, trial_name
from service.sweep.wording import counts_text
from service.tracking.mlflow_run import MAX_PARAM_LENGTH, RUN_ID_NAME, MlflowRun, tracking_uri
from service.tracking.student_model import log_student
from service.training.checkpoints import STUDENT_NAME

logger = logging.getLogger(__name__)

NOTE_TAG = "mlflow.note.content"
PUBLISHED_NAME = "mlflow_address"


def publish_sweep(
    sweep: SweepSpec, tags: dict[str, str], outcome: Outcome, *, is_stopped: bool
) -> str | None:
    """Give MLflow what the sweep came to, and return where it is; None if it is not there.

    Each thing is there once, however often this is begun.
    """
    parent = find_parent(sweep, tracking_uri(sweep.base))
    if parent is None:
        return None
    try:
        adopt_runs(sweep, parent)
        _describe(sweep, parent, tags, outcome, is_final=not is_stopped)
        if outcome.best is not None and not is_stopped:
            register_winner(sweep, outcome)
        parent.end("KILLED" if is_stopped else "FINISHED" if outcome.best else "FAILED")
    except Exception as error:
        # Whatever it is, the sweep is done, and can be sent later.
        logger.warning(
            "MLflow did not take all of the sweep (%s); python jobs/sync.py %s sends the rest",
            error,
            sweep.sweep_path,
        )
        return None
    write_atomically(sweep.sweep_path / PUBLISHED_NAME, parent.address + "\n")
    return parent.address


def run_folders(sweep: SweepSpec) -> Iterator[Path]:
    """The folders of the sweep's runs, those of trials first."""
    for name in (TRIALS_NAME, CONFIRM_NAME):
        yield from sorted(path.parent for path in (sweep.sweep_path / name).glob(f"*/{SPEC_NAME}"))


def adopt_runs(sweep: SweepSpec, parent: MlflowRun) -> None:
    """Put the sweep's runs beneath its own, those too that began while the server was away."""
    for run_path in run_folders(sweep):
        path = run_path / TAGS_NAME
        tags = json.loads(path.read_text())
        if tags.get(PARENT_TAG) == parent.run_id:
            continue
        if (run_path / RUN_ID_NAME).exists():
            run_id = (run_path / RUN_ID_NAME).read_text().strip()
            parent.client.set_tag(run_id, PARENT_TAG, parent.run_id)
        write_atomically(path, json.dumps({**tags, PARENT_TAG: parent.run_id}, indent=1) + "\n")


def _describe(
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
    all_tags[NOTE_TAG] = f"```\n{text}\n```"
    if best is not None:
        all_tags["sweep.best_trial"] = str(best.number)
        params = {f"best.{path}": json.dumps(value) for path, value in best.params.items()}
        all_tags |= {key: value[:MAX_PARAM_LENGTH] for key, value in params.items()}
        if is_final:
            # Parameters of a run cannot be changed: where a search with more budget found better
            # ones, the tags have them.
            with contextlib.suppress(MlflowException):
                entries = [Param(key, value[:MAX_PARAM_LENGTH]) for key, value in params.items()]
                client.log_batch(parent.run_id, params=entries)
        assert best.score is not None, "the best has a score"
        figures = {f"best_{sweep.metric_name}": best.score, "num_tried": len(outcome.records)}
        # The same whenever it is sent, so that it is there once.
        result = read_result(sweep.sweep_path / TRIALS_NAME / trial_name(best.number))
        assert result is not None, "the best has finished"
        metrics = [Metric(key, float(value), result.time_ms, 0) for key, value in figures.items()]
        client.log_batch(parent.run_id, metrics=metrics)
    parent.tag(all_tags)
    for path in artifacts(sweep.sweep_path):
        place = PICTURES_NAME if path.parent.name == PICTURES_NAME else None
        client.log_artifact(parent.run_id, str(path), place)


def register_winner(sweep: SweepSpec, outcome: Outcome) -> None:
    """Make the winner's student a version of the base's registered model, if it names one.

    That is the student of the first confirming run, or of the best trial where nothing was
    confirmed. Which seed did best on val must not decide.

    Raises:
        One of TRACKING_ERRORS: the server does not do its part.
    """
    tracking = sweep.base.tracking
    if tracking.register_as is None:
        return
    assert outcome.best is not None, "there is a winner"
    run_path = sweep.sweep_path / CONFIRM_NAME / f"best-seed-{sweep.base.seed}"
    if outcome.comparison is None or read_result(run_path) is None:
        run_path = sweep.sweep_path / TRIALS_NAME / trial_name(outcome.best.number)
    spec = JobSpec.model_validate_json((run_path / SPEC_NAME).read_text())
    names = {"register_as": tracking.register_as, "alias": tracking.alias}
    spec_to_register = spec.model_copy(update={"tracking": spec.tracking.model_copy(update=names)})
    run = MlflowRun(spec, tracking_uri(sweep.base))
    log_student(run, spec_to_register, run_path / STUDENT_NAME)
    run.end("FINISHED")


def sweep_tags(sweep: SweepSpec) -> dict[str, str]:
    """The tags that the last submission found for the sweep."""
    path = sweep.sweep_path / TAGS_NAME
    tags: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return tags
