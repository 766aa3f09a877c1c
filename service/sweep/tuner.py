"""Runs jobs as trials of Ray Tune: so many at a time, each with Ray Train beneath it.

Ray Tune places, follows, ends and begins trials again; which ones there are and when one stops is
asked of a source, which remembers it beyond the life of this process.
"""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ray import tune
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, Stopper, TuneConfig
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from service.spec import JobSpec
from service.sweep.records import TrialState
from service.sweep.room import FOLLOWER_BYTES
from service.sweep.trial import LEAVING_LIMIT_S, Trial

TUNE_NAME = ".tune"
# Far above what a search comes to: when it is over is for the source to say.
MAX_TRIALS = 1_000_000
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


class TrialSource(Protocol):
    """Where trials come from, and what is told of them."""

    def next(self) -> tuple[int, JobSpec] | None:
        """Number and spec of the next trial; None when there are no more."""

    def report(self, number: int, epoch: int, metrics: dict[str, float]) -> bool:
        """Take the metrics of an evaluation; whether the trial is to stop there."""

    def failed(self, number: int) -> None:
        """A trial failed; it begins again from its checkpoint, or is about to be ended."""

    def end(self, number: int, state: TrialState, error: str | None) -> None:
        """A trial has ended for good."""

    def look(self) -> None:
        """Called several times a second."""

    def leave(self) -> None:
        """Everything is to stop: let trials under way save and leave, to be gone on with later."""


def run_trials(
    source: TrialSource,
    folder: Path,
    *,
    concurrency: int,
    max_failures: int,
    must_stop: Callable[[], bool],
    trainable: type[tune.Trainable] = Trial,
) -> None:
    """Run all trials of ``source``, or those that come before ``must_stop`` says so.

    Trials that were stopped that way have not ended: they are gone on with when they come again.
    """
    # What Tune remembers and prints is of no use here: the source knows better.
    shutil.rmtree(folder / TUNE_NAME, ignore_errors=True)
    os.environ |= {**TUNE_SETTINGS, "TUNE_MAX_PENDING_TRIALS_PG": str(concurrency)}
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    bridge = _Bridge(source)
    tuner = tune.Tuner(
        # Its workers ask for what they need. The process that follows them asks for no CPU, or
        # those that wait for workers could take what these need.
        tune.with_resources(trainable, {"memory": FOLLOWER_BYTES}),
        tune_config=TuneConfig(
            search_alg=_SourceSearcher(source, concurrency, bridge),
            scheduler=_SourceScheduler(bridge),
            num_samples=MAX_TRIALS,
            reuse_actors=True,
        ),
        run_config=RunConfig(
            name=TUNE_NAME,
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=max_failures),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            callbacks=[bridge],
            stop=_StopWhen(must_stop, source),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(folder / TUNE_NAME, ignore_errors=True)


class _NotKept:
    """Tune writes its parts to disk; what these stand for is not for it to keep."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Bridge(_NotKept, Callback):  # type: ignore[misc]
    """Tells the source what Tune tells."""

    def __init__(self, source: TrialSource):
        self._source = source
        self.live: set[int] = set()
        self._stopped: set[int] = set()

    def report(self, trial: TuneTrial, result: dict[str, Any]) -> bool:
        """Whether the trial is to stop."""
        number = _number(trial)
        metrics = {k: v for k, v in result.items() if isinstance(v, float)}
        if self._source.report(number, int(result["epoch"]), metrics):
            self._stopped.add(number)
            return True
        return False

    def on_step_end(self, **_: Any) -> None:  # noqa: ANN401 - Ray's interface
        self._source.look()

    def on_trial_recover(self, *, trial: TuneTrial, **_: Any) -> None:  # noqa: ANN401 - Ray's interface
        self._source.failed(_number(trial))

    def on_trial_complete(self, *, trial: TuneTrial, **_: Any) -> None:  # noqa: ANN401 - Ray's interface
        number = _number(trial)
        if number not in self._stopped:
            # Tune does not ask the scheduler about a result that is the last one.
            self.report(trial, trial.last_result)
        is_stopped = not _is_last(trial) and number in self._stopped
        self._end(number, "stopped" if is_stopped else "finished", None)

    def on_trial_error(self, *, trial: TuneTrial, **_: Any) -> None:  # noqa: ANN401 - Ray's interface
        self._source.failed(_number(trial))
        self._end(_number(trial), "failed", _error_text(trial))

    def _end(self, number: int, state: TrialState, error: str | None) -> None:
        self.live.discard(number)
        self._source.end(number, state, error)


class _SourceSearcher(_NotKept, Searcher):  # type: ignore[misc]
    """Gives Tune the trials of a source, so many at a time."""

    def __init__(self, source: TrialSource, concurrency: int, bridge: _Bridge):
        super().__init__()
        self._source, self._concurrency, self._bridge = source, concurrency, bridge

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # noqa: ARG002 - Ray's interface
        """The next trial's config; None while there are enough."""
        if len(self._bridge.live) >= self._concurrency:
            return None
        trial = self._source.next()
        if trial is None:
            return str(Searcher.FINISHED)
        number, spec = trial
        self._bridge.live.add(number)
        return {"number": number, "spec": spec.model_dump_json()}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:  # noqa: ANN401 - Ray's interface
        """The bridge has told it."""

    def save(self, checkpoint_path: str) -> None:
        """The source keeps its own state."""

    def restore(self, checkpoint_path: str) -> None:
        """The source has its own state."""


class _SourceScheduler(_NotKept, FIFOScheduler):  # type: ignore[misc]
    """Stops a trial where the source says so."""

    def __init__(self, bridge: _Bridge):
        super().__init__()
        self._bridge = bridge

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:  # noqa: ANN401 - Ray's interface
        """Ray calls this for each new trial."""
        # Ten seconds are what Tune gives trials to end when it is stopped.
        tune_controller._actor_force_cleanup_timeout = LEAVING_LIMIT_S
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(
        self,
        tune_controller: Any,  # noqa: ANN401, ARG002 - Ray's interface
        trial: TuneTrial,
        result: dict[str, Any],
    ) -> str:
        """Go on or stop."""
        must_stop = self._bridge.report(trial, result)
        return str(TrialScheduler.STOP if must_stop else TrialScheduler.CONTINUE)


class _StopWhen(_NotKept, Stopper):  # type: ignore[misc]
    """Ends everything when a function says so."""

    def __init__(self, must_stop: Callable[[], bool], source: TrialSource):
        self._must_stop, self._source = must_stop, source
        self._has_asked = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 - Ray's interface
        return False

    def stop_all(self) -> bool:
        """Whether it is time."""
        if self._must_stop() and not self._has_asked:
            # They leave before their next evaluation, which Tune waits for.
            self._has_asked = True
            self._source.leave()
        return self._has_asked


def _number(trial: TuneTrial) -> int:
    return int(trial.config["number"])


def _is_last(trial: TuneTrial) -> bool:
    """Whether the trial came to its last epoch."""
    spec = JobSpec.model_validate_json(trial.config["spec"])
    return trial.last_result.get("epoch") == spec.schedule.num_epochs


def _error_text(trial: TuneTrial) -> str:
    """What the trial raised, on a line."""
    try:
        lines = [line.strip() for line in Path(trial.error_file).read_text().splitlines()]
    except (OSError, TypeError):
        return "it failed, and Ray does not tell why"
    last = next((line for line in reversed(lines) if line), "")
    if "Error: " not in last:
        return "its process died; if not by hand, see whether memory ran out"
    return last.rpartition("TrialFailedError: ")[2]
