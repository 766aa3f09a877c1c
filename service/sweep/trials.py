"""The trials of a search as jobs: their specs, their folders, and what is left of them."""

import contextlib
import shutil
from collections.abc import Callable, Iterable
from typing import Any

from service.cluster.placement import forget_placement, is_placed, release_placement
from service.cluster.run_folder import SPEC_NAME
from service.files import write_atomically
from service.spec import JobSpec, parse_spec
from service.sweep.records import TrialState
from service.sweep.rules import trial_content
from service.sweep.search import Search, TrialEnd
from service.sweep.space import with_values
from service.sweep.spec import SweepSpec
from service.sweep.tracking import RunTrackers
from service.sweep.trial import training_seconds
from service.training.checkpoints import checkpoint_paths
from service.training.leaving import ask_to_leave

TRIALS_NAME = "trials"


def trial_name(number: int) -> str:
    """Name of a trial's run and of its folder."""
    return f"trial-{number:04d}"


def trial_spec(sweep: SweepSpec, base: JobSpec, number: int, point: dict[str, Any]) -> JobSpec:
    """The job of a trial: the base with a point's values, scored on the held-out images.

    ``base``: the sweep's, perhaps with weights that were fetched once for all trials.
    """
    content = with_values(trial_content(sweep, base), point)
    content["name"] = trial_name(number)
    storage = content.setdefault("checkpoints", {})
    storage["storage_path"] = str(sweep.sweep_path / TRIALS_NAME)
    return parse_spec(content)


def ask_all_to_leave(specs: Iterable[JobSpec]) -> None:
    """Let the workers of runs save and leave; whom the storage does not tell, Ray ends later."""
    for spec in specs:
        with contextlib.suppress(OSError):
            ask_to_leave(spec.run_path, "stop")


class SearchTrials:
    """Gives the trials of a search to whoever runs them, and the search what came of them."""

    def __init__(
        self,
        sweep: SweepSpec,
        base: JobSpec,
        search: Search,
        trackers: RunTrackers,
        look: Callable[[], None],
    ):
        self._sweep, self._base, self._search = sweep, base, search
        self._trackers = trackers
        self.look = look
        self._specs: dict[int, JobSpec] = {}
        self._num_failures: dict[int, int] = {}
        folder = sweep.sweep_path / TRIALS_NAME
        # Those too that an earlier submission had no time for.
        self._untidy = [
            folder / trial_name(record.number)
            for record in search.records()
            if record.state in ("finished", "stopped")
        ]
        for run_path in self._untidy:
            # Whatever held it ended with that submission.
            forget_placement(run_path)

    def next(self) -> tuple[int, JobSpec] | None:
        """Number and spec of the next trial; its folder is there."""
        ticket = self._search.next()
        if ticket is None:
            return None
        spec = trial_spec(self._sweep, self._base, ticket.number, ticket.point)
        spec.run_path.mkdir(parents=True, exist_ok=True)
        write_atomically(spec.run_path / SPEC_NAME, spec.model_dump_json(indent=1) + "\n")
        self._specs[ticket.number] = spec
        self._trackers.begin(spec, {"trial": str(ticket.number)})
        return ticket.number, spec

    def report(self, number: int, epoch: int, metrics: dict[str, float]) -> bool:
        """Whether the trial is to stop, by its metric so far."""
        return self._search.report(number, epoch, metrics[self._sweep.metric_name])

    def failed(self, number: int) -> None:
        """Count a failure; what the dead trial still holds is let go of."""
        self._num_failures[number] = self._num_failures.get(number, 0) + 1
        # Its process may have been about to go on with the workers of the trial before, whose
        # record they are in then; of other processes that are, the next trials get new workers.
        for run_path in [self._specs[number].run_path, *self._untidy]:
            release_placement(run_path)

    def end(self, number: int, state: TrialState, error: str | None) -> None:
        """Write down how a trial ended."""
        spec = self._specs.pop(number)
        seconds = training_seconds(spec)
        failures = self._num_failures.pop(number, 0)
        self._search.end(number, TrialEnd(state, seconds, failures, error))
        self._trackers.end(spec, state)
        if state != "failed":
            self._untidy.append(spec.run_path)
        self.tidy()

    def leave(self) -> None:
        """Let the trials under way save and leave."""
        ask_all_to_leave(self._specs.values())

    def close(self) -> None:
        """All are over or have been left; whoever ran them holds nothing for them any more."""
        left = [spec.run_path for spec in self._specs.values()]
        for run_path in [*self._untidy, *left]:
            release_placement(run_path)
        self.tidy()

    def tidy(self) -> None:
        """Remove the checkpoints of trials that are over and whose workers have left."""
        for run_path in list(self._untidy):
            if not is_placed(run_path):
                for path in checkpoint_paths(run_path):
                    shutil.rmtree(path, ignore_errors=True)
                self._untidy.remove(run_path)
