"""The one MLflow run of a job: found or made, described, and fed."""

import contextlib
import hashlib
import os
import shlex
from collections.abc import Iterable, Mapping

# A dead server must be noticed in seconds. Callers retry on their own, and first check what the
# server did before its answer was lost: repeated blindly, a request creates a second run, or a
# second version. MLflow reads these variables at each request; a user's own setting is kept.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
# A progress bar is noise in a job's log.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# The job prints the address of its run itself; MLflow's own opens a page without runs.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from data_pipeline.files import write_atomically
from data_pipeline.uris import redacted
from service.run.journal import Event
from service.run.progress import Progress
from service.spec.errors import BadInputError
from service.spec.job import JobSpec
from service.spec.mlflow_rules import MAX_PARAM_LENGTH, MAX_TAG_LENGTH
from service.spec.paths import absolute_uri, sqlite_path, sqlite_uri
from service.spec.secrets import environment_problems
from service.tracking.dataset_inputs import log_run_datasets
from service.tracking.destination import RUN_ID_NAME, set_destination, stored_run_id
from service.tracking.runs_view import accuracy_view

# What the client raises when the server is away, fails or answers nonsense.
TRACKING_ERRORS = (MlflowException, requests.RequestException, SQLAlchemyError, OSError)

MAX_METRICS_PER_CALL = 1000
MAX_PARAMS_PER_CALL = 100
RUN_KEY_TAG = "run_key"
# Without it, MLflow's UI opens an experiment on a page for language models that shows no runs. In
# 3.17 it depends on the browser and the address alone, not on the tag mlflow.experimentKind.
UI_MODE = "workflowType=machine_learning"
# MLflow's status of a run that did not finish, by its state.
RUN_STATUSES = {"failed": "FAILED", "stopped": "KILLED"}


class MlflowRun:
    """A job's run; submitting the job again finds the same one.

    Every method raises one of TRACKING_ERRORS where the server fails or does not answer.
    """

    def __init__(self, spec: JobSpec, uri: str):
        self._spec = spec
        self.uri = uri
        mlflow.set_tracking_uri(uri)
        create_sqlite_file(uri)
        self.client = MlflowClient(uri)
        set_destination(spec, uri)
        name, location = spec.tracking.experiment, self._artifact_location()
        self.experiment_id = find_experiment(self.client, name, location)
        self.run_id = self._find_run()

    @property
    def address(self) -> str:
        """The run's page in the UI; for SQLite, with the command that starts the UI."""
        return run_address(self.uri, self.experiment_id, self.run_id)

    def log_spec(self, tags: dict[str, str]) -> None:
        """Log the spec, as parameters and as a file, the tags, and the datasets as inputs."""
        # MLflow keeps a parameter's first value; what may change since is in spec.json.
        logged = self.client.get_run(self.run_id).data.params
        params = [
            Param(key, value) for key, value in flattened(self._spec).items() if key not in logged
        ]
        for start in range(0, len(params), MAX_PARAMS_PER_CALL):
            self.client.log_batch(self.run_id, params=params[start : start + MAX_PARAMS_PER_CALL])
        self.set_tags(tags)
        self.log_datasets(tags)
        self.client.log_text(self.run_id, self._spec.model_dump_json(indent=1), "spec.json")

    def log_datasets(self, tags: Mapping[str, str]) -> None:
        """Log the datasets that the tags of the run know, as its inputs."""
        log_run_datasets(self.client, self.run_id, self._spec, tags)

    def log_events(self, events: Iterable[Event]) -> None:
        """Log the events' values as metrics; MLflow keeps equal points once."""
        metrics = [
            Metric(name, value, event.time_ms, event.step)
            for event in events
            for name, value in event.values.items()
        ]
        for start in range(0, len(metrics), MAX_METRICS_PER_CALL):
            self.client.log_batch(
                self.run_id, metrics=metrics[start : start + MAX_METRICS_PER_CALL]
            )

    def set_tags(self, tags: dict[str, str]) -> None:
        """Set or change tags; what is longer than MLflow takes is cut off."""
        entries = [RunTag(key, value[:MAX_TAG_LENGTH]) for key, value in tags.items()]
        self.client.log_batch(self.run_id, tags=entries)

    def log_result(self, progress: Progress, time_ms: int) -> None:
        """Log the run's final metrics.

        ``time_ms``, when training was done, is the same whenever they are sent, so MLflow keeps
        them once.
        """
        # A trial's accuracy is on held-out images: not to be sorted together with that on val.
        prefix = "result/" if self._spec.dataset.evaluated == "val" else "result/held_out_"
        figures = {
            f"{prefix}last_top1": progress.last_top1,
            f"{prefix}last_top5": progress.last_top5,
            f"{prefix}best_top1": progress.best_top1,
            f"{prefix}best_top5": progress.best_top5,
            f"{prefix}best_epoch": progress.best_epoch,
        }
        metrics = [
            Metric(name, float(value), time_ms, progress.step)
            for name, value in figures.items()
            if value is not None
        ]
        self.client.log_batch(self.run_id, metrics=metrics)

    def end(self, status: str) -> None:
        """Mark the run FINISHED, FAILED or, if it was stopped, KILLED."""
        self.client.set_terminated(self.run_id, status)

    def _artifact_location(self) -> str | None:
        """A server stores artifacts itself; with SQLite they are in the storage path."""
        if self.uri.startswith("http"):
            return None
        return (self._spec.checkpoints.storage_path / "mlflow-artifacts").as_uri()

    def _find_run(self) -> str:
        run_id = stored_run_id(self._spec.run_path) or self._find_or_create()
        write_atomically(self._spec.run_path / RUN_ID_NAME, run_id + "\n")
        self.client.update_run(run_id, status="RUNNING")
        return run_id

    def _find_or_create(self) -> str:
        """The server may have created the run when its answer was lost."""
        identity = f"{self._spec.content_hash()} in {self._spec.run_path}"
        key = hashlib.sha256(identity.encode()).hexdigest()
        found = self.client.search_runs([self.experiment_id], f"tags.{RUN_KEY_TAG} = '{key}'")
        if found:
            return str(found[0].info.run_id)
        run = self.client.create_run(
            self.experiment_id, run_name=self._spec.name, tags={RUN_KEY_TAG: key}
        )
        return str(run.info.run_id)


def find_experiment(client: MlflowClient, name: str, artifact_location: str | None) -> str:
    """Id of the experiment of this name, which is created if there is none; it gets a view.

    ``artifact_location``: where a new one stores its files; None leaves it to the server.

    Raises:
        One of TRACKING_ERRORS: the server fails or does not answer.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location, accuracy_view()))
        except MlflowException:
            # Another job may have created it in the meantime.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    for key, text in accuracy_view().items():
        if key not in experiment.tags:
            # Of an experiment that something else has created, which may not let this user.
            with contextlib.suppress(MlflowException):
                client.set_experiment_tag(experiment.experiment_id, key, text)
    return str(experiment.experiment_id)


def run_address(uri: str, experiment_id: str, run_id: str) -> str:
    """A run's page in the UI; for SQLite, with the command that starts the UI."""
    page = f"/#/experiments/{experiment_id}/runs/{run_id}?{UI_MODE}"
    uri = redacted(uri)
    if uri.startswith("http"):
        return uri.rstrip("/") + page
    command = f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
    return f"http://127.0.0.1:5000{page} (first start: {command})"


def tracking_uri(spec: JobSpec) -> str:
    """MLFLOW_TRACKING_URI, the spec's, or SQLite in the storage path.

    Raises:
        BadInputError: a URI of the environment contains a secret, which MLflow would show.
    """
    if problems := list(environment_problems()):
        raise BadInputError("environment", problems)
    default = sqlite_uri(spec.checkpoints.storage_path / "mlflow.db")
    return absolute_uri(os.environ.get("MLFLOW_TRACKING_URI") or spec.tracking.uri or default)


def create_sqlite_file(uri: str) -> None:
    """Create the file of a SQLite URI with the permissions of any new file.

    SQLite would let nobody but its owner write, whatever the umask; and the files beside it, of a
    transaction, get the permissions of the first.
    """
    path = sqlite_path(uri)
    if path is not None and path.is_absolute():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def flattened(spec: JobSpec) -> dict[str, str]:
    """The spec as MLflow parameters: dotted paths to values as text."""
    params: dict[str, str] = {}

    def visit(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else key, inner)
        else:
            params[prefix] = str(value)[:MAX_PARAM_LENGTH]

    visit("", spec.model_dump(mode="json"))
    return params
