"""One trial: a training run as a Ray Tune Trainable with one step per evaluation."""

import contextlib
import threading
import time
from typing import Any

from ray import tune
from ray.train import TrainingFailedError

from service.cluster.failures import failure_text
from service.cluster.launch import run_training
from service.cluster.sigterm import install_sigterm_handler
from service.result import collect_result
from service.run.control import clear_abort, clear_request, read_abort_reason, request_stop
from service.run.journal import JOURNAL_NAME, Event, JournalReader
from service.spec.job import JobSpec
from service.trials.local_run import train_here
from service.trials.open_runs import mark_closed, mark_open

POLL_S = 0.2
# Workers finish their step and save a checkpoint before they stop.
STOP_TIMEOUT_S = 120.0


class TrialFailedError(RuntimeError):
    """The trial's run failed more often than its spec's resources allow."""


class TrialRun:
    """A run that trains in a thread and returns its evaluations one by one."""

    def __init__(self, spec: JobSpec):
        self._spec = spec
        self._failure: Exception | None = None
        spec.run_path.mkdir(parents=True, exist_ok=True)
        clear_request(spec.run_path, "stop")
        clear_abort(spec.run_path)
        self._reader = JournalReader(spec.run_path / JOURNAL_NAME, after=-1)
        self._events: list[Event] = []
        self._thread = threading.Thread(target=self._train, name="trial", daemon=True)
        self._thread.start()

    def _train(self) -> None:
        try:
            mark_open(self._spec.run_path)
            if self._spec.resources.max_workers == 1:
                train_here(self._spec)
            else:
                run_training(self._spec)
        except Exception as error:
            self._failure = error
        finally:
            mark_closed(self._spec.run_path)

    def next_evaluation(self) -> dict[str, Any]:
        """Wait for the next evaluation: its epoch and metrics, and ``done``, True for the last one.

        Where the run was aborted, ``failure`` says why instead.

        Raises:
            TrialFailedError: the run ended before it.
        """
        while True:
            has_ended = not self._thread.is_alive()
            with contextlib.suppress(OSError):
                self._events += self._reader.read()
            while self._events:
                event = self._events.pop(0)
                if event.kind == "evaluation":
                    return self._result_of(event)
            if has_ended:
                # An error would be retried; what aborted the run would only happen again.
                if (reason := read_abort_reason(self._spec.run_path)) is not None:
                    return {"failure": reason.text, "done": True}
                raise TrialFailedError(self._reason())
            time.sleep(POLL_S)

    def _result_of(self, event: Event) -> dict[str, Any]:
        is_last = event.epoch == self._spec.schedule.num_epochs
        if is_last:
            # The student's weights are written at the end of the run.
            self._thread.join()
            if (reason := read_abort_reason(self._spec.run_path)) is not None:
                return {"failure": reason.text, "done": True}
            if self._failure is not None:
                raise TrialFailedError(self._reason())
            collect_result(self._spec.run_path, self._spec.schedule.num_epochs)
        return {"epoch": event.epoch, "done": is_last, **event.values}

    def _reason(self) -> str:
        reason = read_abort_reason(self._spec.run_path)
        if reason is not None:
            return reason.text
        # Without a reason, it raised or was requested to stop.
        if isinstance(self._failure, TrainingFailedError):
            return failure_text(self._failure, self._spec.run_path)
        return str(self._failure or "it was stopped")

    def close(self) -> None:
        """Stop the run if it is still running.

        Raises:
            TrialFailedError: its workers do not stop in time; they end with this process.
        """
        if self._thread.is_alive():
            request_stop(self._spec.run_path)
            self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive():
            raise TrialFailedError(f"the workers of {self._spec.name} do not stop")
        clear_request(self._spec.run_path, "stop")


class Trial(tune.Trainable):  # type: ignore[misc]
    """The class that Ray Tune runs; ``config["spec"]`` is the trial's spec as JSON text."""

    _run: TrialRun | None = None

    def setup(self, config: dict[str, Any]) -> None:
        """Store the trial's spec. The run starts or resumes in the first step, because only errors
        in a step count as failures of the trial and are retried.
        """
        install_sigterm_handler()
        self._next_spec: JobSpec | None = JobSpec.model_validate_json(config["spec"])

    def step(self) -> dict[str, Any]:
        """Train up to the next evaluation."""
        if self._next_spec is not None:
            if self._run is not None:
                self._run.close()
            self._run, self._next_spec = TrialRun(self._next_spec), None
        assert self._run is not None, "the first step started it"
        return self._run.next_evaluation()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Switch to another trial in this process."""
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Stop the run."""
        if self._run is not None:
            self._run.close()
