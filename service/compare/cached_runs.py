"""The runs and trials of a comparison that may read the teacher's logits: those that are left."""

from service.compare.loading import LoadedComparison
from service.compare.tuned_space import tuned_rows
from service.run.folder import TRIALS_NAME
from service.run.result import read_result
from service.run.status import read_status
from service.sweep.cached_runs import cached_runs as cached_trials
from service.sweep.spec import SweepSpec
from service.teacher_cache.demand import Runs
from service.trials.child_runs import child_folders


def cached_runs(loaded: LoadedComparison) -> list[Runs]:
    """Those of the searches, if it is tuned, and then those of each row, seed by seed."""
    found: list[Runs] = []
    for variant, search in tuned_rows(loaded.compare).items():
        base = loaded.jobs[variant]
        spec = loaded.with_paths(search.base, variant)
        left = max(0.0, 1 - num_ended_trials(search) / search.budget.trials)
        trials = cached_trials(search, base._replace(spec=spec)) if left else []
        found += [each._replace(num_runs=each.num_runs * left) for each in trials]
    for key, spec in loaded.run_specs().items():
        if read_result(spec.run_path) is None:
            found.append(Runs(loaded.jobs[key.variant]._replace(spec=spec)))
    return found


def num_ended_trials(search: SweepSpec) -> int:
    """Trials of a search that will not run again.

    From their folders: a search that is opened is written to, and another process may run it.
    """
    return sum(
        read_result(path) is not None or read_status(path).state == "failed"
        for path in child_folders([search.sweep_path / TRIALS_NAME])
    )
