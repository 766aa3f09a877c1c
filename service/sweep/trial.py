"""One trial: a run of Ray Train that Ray Tune can follow, epoch by epoch, and end at any time."""

import contextlib
import json
import threading
import time
from typing import Any

from ray import tune

from service.cluster.kept_workers import KeepingWorkerGroup
from service.cluster.policies import failure_text
from service.cluster.trainer import run_training
from service.result import collect_result
from service.spec import JobSpec
from service.tracking.journal import JOURNAL_NAME, Event, JournalReader, read_events
from service.training.leaving import ask_to_leave, forget_request
from service.training.refusal import REFUSAL_NAME

LOOK_S = 0.2
# Workers that were asked to leave finish their step and save.
LEAVING_LIMIT_S = 120.0


class TrialFailedError(RuntimeError):
    """The trial's run failed, and its own budget of failures is used up."""


class TrialRun:
    """Trains on a thread, and tells each evaluation as it comes."""

    def __init__(self, spec: JobSpec):
        self._spec = spec
        self._failure: Exception | None = None
        spec.run_path.mkdir(parents=True, exist_ok=True)
        forget_request(spec.run_path, "stop")
        (spec.run_path / REFUSAL_NAME).unlink(missing_ok=True)
        self._reader = JournalReader(spec.run_path / JOURNAL_NAME, after=-1)
        self._events: list[Event] = []
        self._thread = threading.Thread(target=self._train, name="trial", daemon=True)
        self._thread.start()

    def _train(self) -> None:
        try:
            run_training(self._spec, controls_here=True)
        except Exception as error:
            self._failure = error

    def next_evaluation(self) -> dict[str, Any]:
        """Wait for the next evaluation: its epoch and metrics, and ``done`` with the last.

        Raises:
            TrialFailedError: the run ended without it.
        """
        while True:
            has_ended = not self._thread.is_alive()
            with contextlib.suppress(OSError):
                self._events += self._reader.read()
            while self._events:
                event = self._events.pop(0)
                if event.kind == "evaluation":
                    return self._told(event)
            if has_ended:
                raise TrialFailedError(self._reason())
            time.sleep(LOOK_S)

    def _told(self, event: Event) -> dict[str, Any]:
        is_last = event.epoch == self._spec.schedule.num_epochs
        if is_last:
            # The student is there when the run has ended.
            self._thread.join()
            if self._failure is not None:
                raise TrialFailedError(self._reason())
            collect_result(self._spec, 0.0)
        return {"epoch": event.epoch, "done": is_last, **event.values}

    def _reason(self) -> str:
        path = self._spec.run_path / REFUSAL_NAME
        if path.exists():
            return str(json.loads(path.read_text())["text"])
        # Either it failed, or it ended as a run does that was asked to.
        return failure_text(self._failure) if self._failure else "it was stopped"

    def close(self) -> None:
        """End the run, whatever it is at.

        Raises:
            TrialFailedError: its workers do not leave; they end with this process.
        """
        if self._thread.is_alive():
            ask_to_leave(self._spec.run_path, "stop")
            self._thread.join(LEAVING_LIMIT_S)
        if self._thread.is_alive():
            raise TrialFailedError(f"the workers of {self._spec.name} do not leave")
        forget_request(self._spec.run_path, "stop")


class Trial(tune.Trainable):  # type: ignore[misc]
    """What Ray Tune runs for each trial; its ``config`` has the trial's spec as JSON text."""

    _run: TrialRun | None = None

    def setup(self, config: dict[str, Any]) -> None:
        """Take on a trial. Its run begins, or goes on, with the first step: what fails then is the
        trial's failure, and it is tried again.
        """
        self._next_spec: JobSpec | None = JobSpec.model_validate_json(config["spec"])

    def step(self) -> dict[str, Any]:
        """Up to the next evaluation."""
        if self._next_spec is not None:
            if self._run is not None:
                self._run.close()
            self._run, self._next_spec = TrialRun(self._next_spec), None
        assert self._run is not None, "the first step began it"
        return self._run.next_evaluation()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take on another trial in this process, and with the workers of the one before."""
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Leave nothing behind."""
        try:
            if self._run is not None:
                self._run.close()
        finally:
            KeepingWorkerGroup.dismiss_kept()


def training_seconds(spec: JobSpec) -> float:
    """Wall time that a run has spent training and evaluating, over all its attempts."""
    seconds, start_ms, last_ms = 0.0, None, 0
    for event in read_events(spec.run_path / JOURNAL_NAME):
        if event.kind == "start":
            if start_ms is not None:
                seconds += (last_ms - start_ms) / 1000
            start_ms = event.time_ms
        last_ms = event.time_ms
    return seconds + ((last_ms - start_ms) / 1000 if start_ms is not None else 0.0)
