"""Runs jobs as trials of Ray Tune: several at a time, each of which runs Ray Train.

Ray Tune schedules, polls, stops and retries trials. A ``TrialSource`` decides which trials exist
and when one stops; its state persists after this process.
"""

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, Stopper, TuneConfig
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from service.cluster.ray_internals import set_trial_stop_timeout
from service.spec.job import JobSpec
from service.trials.source import TrialSource, TrialState
from service.trials.trainable import STOP_TIMEOUT_S, Trial
from service.trials.watchdog import death_text

TUNE_NAME = ".tune"
# Effectively unlimited: the source ends the search.
MAX_TRIALS = 1_000_000
# Disables parts of Tune that this service replaces: its loggers, the checkpoints of its own state,
# its output and its SIGINT handler; and Ray's traceback of each trial that is stopped, whose result
# Tune no longer waits for.
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}


def run_trials(
    source: TrialSource,
    folder: Path,
    *,
    concurrency: int,
    max_failures: int,
    must_stop: Callable[[], bool],
    resources: Mapping[str, float],
    trainable: type[tune.Trainable] = Trial,
) -> None:
    """Run the trials of ``source`` until there are no more, or ``must_stop`` returns True.

    After a stop, the trials that were running can be resumed from their checkpoints.

    Args:
        source: provides the trials and receives their results.
        folder: where Tune's temporary files are written; they are removed at the end.
        concurrency: maximum number of trials that run at the same time.
        max_failures: times that a failed trial is retried.
        must_stop: polled by Tune several times a second.
        resources: what Ray reserves for each trial's process.
        trainable: the class that Tune runs for each trial.
    """
    # Tune's own state is not used: the source stores the state of the trials.
    shutil.rmtree(folder / TUNE_NAME, ignore_errors=True)
    os.environ |= {**TUNE_SETTINGS, "TUNE_MAX_PENDING_TRIALS_PG": str(concurrency)}
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    callback = _SourceCallback(source)
    tuner = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([dict(resources)])),
        tune_config=TuneConfig(
            search_alg=_SourceSearcher(source, concurrency, callback),
            scheduler=_SourceScheduler(callback),
            num_samples=MAX_TRIALS,
            reuse_actors=True,
        ),
        run_config=RunConfig(
            name=TUNE_NAME,
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=max_failures),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            callbacks=[callback],
            stop=_StopOnRequest(must_stop, source),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(folder / TUNE_NAME, ignore_errors=True)


class _Stateless:
    """Tune pickles its components to disk; these have no state to save."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _SourceCallback(_Stateless, Callback):  # type: ignore[misc]
    """Forwards Tune's events to the source."""

    def __init__(self, source: TrialSource):
        self._source = source
        self.running: set[int] = set()
        self._stopped: set[int] = set()

    def report(self, trial: TuneTrial, result: dict[str, Any]) -> bool:
        """Report an evaluation; returns whether the trial must stop."""
        number = _number(trial)
        metrics = {k: v for k, v in result.items() if isinstance(v, float)}
        if self._source.report(number, int(result["epoch"]), metrics):
            self._stopped.add(number)
            return True
        return False

    def on_step_end(self, **_: Any) -> None:  # noqa: ANN401 - Ray's interface
        self._source.on_tick()

    def on_trial_recover(self, *, trial: TuneTrial, **_: Any) -> None:  # noqa: ANN401 - Ray's interface
        self._source.failed(_number(trial))

    def on_trial_complete(self, *, trial: TuneTrial, **_: Any) -> None:  # noqa: ANN401 - Ray's interface
        number = _number(trial)
        if (failure := trial.last_result.get("failure")) is not None:
            self._source.failed(number)
            self._end(number, "failed", failure)
            return
        if number not in self._stopped:
            # Tune does not pass a trial's last result to the scheduler.
            self.report(trial, trial.last_result)
        is_stopped = not _is_last(trial) and number in self._stopped
        self._end(number, "stopped" if is_stopped else "finished", None)

    def on_trial_error(self, *, trial: TuneTrial, **_: Any) -> None:  # noqa: ANN401 - Ray's interface
        self._source.failed(_number(trial))
        self._end(_number(trial), "failed", _error_text(trial))

    def _end(self, number: int, state: TrialState, error: str | None) -> None:
        self.running.discard(number)
        self._source.end(number, state, error)


class _SourceSearcher(_Stateless, Searcher):  # type: ignore[misc]
    """Provides the trials of a source to Tune, several at a time."""

    def __init__(self, source: TrialSource, concurrency: int, callback: _SourceCallback):
        super().__init__()
        self._source, self._concurrency, self._callback = source, concurrency, callback

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # noqa: ARG002 - Ray's interface
        """The next trial's config; None while ``concurrency`` trials are running."""
        if len(self._callback.running) >= self._concurrency:
            return None
        trial = self._source.next()
        if trial is None:
            return str(Searcher.FINISHED)
        number, spec = trial
        self._callback.running.add(number)
        return {"number": number, "spec": spec.model_dump_json()}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:  # noqa: ANN401 - Ray's interface
        """Nothing to do: the callback reports the end."""

    def save(self, checkpoint_path: str) -> None:
        """The source stores its own state."""

    def restore(self, checkpoint_path: str) -> None:
        """The source restores its own state."""


class _SourceScheduler(_Stateless, FIFOScheduler):  # type: ignore[misc]
    """Stops a trial when the source requires it."""

    def __init__(self, callback: _SourceCallback):
        super().__init__()
        self._callback = callback

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:  # noqa: ANN401 - Ray's interface
        """Set how long Tune waits for a trial to stop."""
        set_trial_stop_timeout(tune_controller, STOP_TIMEOUT_S)
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(
        self,
        tune_controller: Any,  # noqa: ANN401, ARG002 - Ray's interface
        trial: TuneTrial,
        result: dict[str, Any],
    ) -> str:
        """Tune's decision for the trial: CONTINUE or STOP."""
        must_stop = self._callback.report(trial, result)
        return str(TrialScheduler.STOP if must_stop else TrialScheduler.CONTINUE)


class _StopOnRequest(_Stateless, Stopper):  # type: ignore[misc]
    """Stops everything when ``must_stop`` returns True."""

    def __init__(self, must_stop: Callable[[], bool], source: TrialSource):
        self._must_stop, self._source = must_stop, source
        self._has_requested = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 - Ray's interface
        return False

    def stop_all(self) -> bool:
        """Whether everything must stop."""
        if self._must_stop() and not self._has_requested:
            # Tune waits for the trials' current steps, which this request ends early.
            self._has_requested = True
            self._source.stop()
        return self._has_requested


def _number(trial: TuneTrial) -> int:
    return int(trial.config["number"])


def _is_last(trial: TuneTrial) -> bool:
    """Whether the trial reached its last epoch."""
    spec = JobSpec.model_validate_json(trial.config["spec"])
    return trial.last_result.get("epoch") == spec.schedule.num_epochs


def _error_text(trial: TuneTrial) -> str:
    """The error that the trial raised, or how its process died, on one line."""
    try:
        lines = [line.strip() for line in Path(trial.error_file).read_text().splitlines()]
    except (OSError, TypeError):
        return "it failed, and Ray reports no reason"
    last = next((line for line in reversed(lines) if line), "")
    if "Error: " in last:
        return last.rpartition("TrialFailedError: ")[2]
    return death_text(JobSpec.model_validate_json(trial.config["spec"]).run_path)
