"""The cluster that the trials of a sweep or a comparison run on, joined when the first one does."""

from pathlib import Path

from service.cluster.connection import connect
from service.cluster.ray_internals import check_tune
from service.run.report import print_now
from service.run.stop_signals import StopSignals
from service.spec.sections import Resources
from service.trials.capacity import plan_concurrency, trial_resources
from service.trials.runner import run_trials
from service.trials.source import TrialSource


class TrialCluster:
    """Runs one source of trials after the other.

    ``folder``: where Tune's temporary files are. ``concurrency``: trials at a time; None for the
    most that fit. ``noun``: what the log calls the trials.
    """

    def __init__(
        self,
        folder: Path,
        resources: Resources,
        concurrency: int | None,
        max_failures: int,
        signals: StopSignals,
        noun: str = "trials",
    ):
        self._folder, self._resources, self._requested = folder, resources, concurrency
        self._max_failures, self._signals, self._noun = max_failures, signals, noun
        self._concurrency = 0

    def run(self, source: TrialSource) -> None:
        """Run the trials of ``source`` until there are no more or the job is stopped.

        Raises:
            BadInputError: no cluster answers, the trials do not fit on it, or Ray Tune lacks what
                they need.
        """
        if self._concurrency == 0 and not self._signals.is_set:
            # A job that goes on may do so with another Ray than it began with.
            check_tune()
            connect()
            self._signals.install()
            self._concurrency = plan_concurrency(self._resources, self._requested)
            print_now(f"{self._concurrency} {self._noun} at a time")
        if not self._signals.is_set:
            run_trials(
                source,
                self._folder,
                concurrency=self._concurrency,
                max_failures=self._max_failures,
                must_stop=lambda: self._signals.is_set,
                resources=trial_resources(self._resources),
            )
