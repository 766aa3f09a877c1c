"""Comparisons without Ray: specs, finished runs as files, and a cluster that is this process."""

import contextlib
import os
import signal

from support.confirm_runs import NoTrackers
from support.training_runs import run_alone

from service.compare import job as job_module
from service.result import collect_result
from service.run.control import GracefulStop, clear_request
from service.run.journal import JOURNAL_NAME, read_events
from service.trials import cluster as cluster_module


def without_mlflow(setattr_):
    """Comparisons use neither MLflow nor RAY_ADDRESS; ``setattr_``: that of monkeypatch."""
    setattr_(job_module, "RunTrackers", lambda *_: NoTrackers())
    for name in ("unanswered", "check_address", "find_parent", "publish_comparison"):
        setattr_(job_module, name, lambda *_, **__: None)


class HereCluster:
    """Trains the runs of a source in this process, one after the other.

    ``failing``: names of the runs that fail. ``stop_at``: SIGTERM comes in the first epoch of this
    run. ``kill_at``: the driver dies after the first epoch of this run. ``started``: names of the
    runs that were started.
    """

    def __init__(self):
        self.failing, self.stop_at, self.kill_at, self.started = set(), None, None, []

    def run_trials(self, source, folder, *, must_stop, **_):
        while not must_stop() and (trial := source.next()) is not None:
            number, spec = trial
            self.started.append(spec.name)
            if spec.name == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
                source.stop()
                with contextlib.suppress(GracefulStop):
                    run_alone(spec)
            elif spec.name == self.kill_at:
                run_alone(spec, stop_after_epochs=1)
            elif spec.name in self.failing:
                source.failed(number)
                source.end(number, "failed", "worker 0 was killed")
            else:
                self.train(source, number, spec)
            source.on_tick()

    def train(self, source, number, spec):
        clear_request(spec.run_path, "stop")
        run_alone(spec)
        for event in read_events(spec.run_path / JOURNAL_NAME):
            if event.kind == "evaluation":
                source.report(number, event.epoch, event.values)
        collect_result(spec.run_path, spec.schedule.num_epochs)
        source.end(number, "finished", None)

    def install(self, setattr_):
        """Take the place of Ray and MLflow; ``setattr_``: that of monkeypatch."""
        setattr_(cluster_module, "run_trials", self.run_trials)
        setattr_(cluster_module, "connect", lambda: None)
        setattr_(cluster_module, "plan_concurrency", lambda *_: 1)
        without_mlflow(setattr_)
