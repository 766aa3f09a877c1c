"""Which sweeps may resume the one in their folder. Imports neither torch nor ray."""

from pathlib import Path

from service.run.claim import changed_inputs, differences, has_started, input_tags
from service.run.folder import read_many_jobs, read_tags
from service.spec.errors import BadInputError
from service.spec.identity import fixed_differences
from service.sweep.loading import LoadedSweep
from service.sweep.spec import SWEEP_NAME, SweepSpec

# Fields that may change when a sweep is resumed: trials that have ended stay as they are.
CHANGEABLE = ("budget", "scheduler", "concurrency", "max_failures", "progress_interval_s")


def check_same_sweep(loaded: LoadedSweep) -> None:
    """Check that a sweep of the same name that has started has the same spec and the same files.

    Raises:
        BadInputError: with each field that differs.
    """
    sweep = loaded.sweep
    path = sweep.sweep_path / SWEEP_NAME
    if not path.exists() or not has_started(sweep.sweep_path):
        return
    old = read_sweep(sweep.sweep_path)
    differing = fixed_differences(old, sweep)
    problems = differences(differing, path, f"the sweep {sweep.name!r}", CHANGEABLE)
    problems += changed_inputs(read_tags(sweep.sweep_path), input_tags(loaded.base), sweep.name)
    if problems:
        raise BadInputError("sweep", problems)


def has_other_scheduler(sweep: SweepSpec) -> bool:
    """Whether the sweep in the folder has started, and with another scheduler."""
    path = sweep.sweep_path / SWEEP_NAME
    if not path.exists() or not has_started(sweep.sweep_path):
        return False
    return read_sweep(sweep.sweep_path).scheduler != sweep.scheduler


def read_sweep(sweep_path: Path) -> SweepSpec:
    """The sweep that a folder belongs to, wherever the folder is now; see ``read_spec``.

    Raises:
        BadInputError: it is damaged, or was written by another version of the service.
        OSError: the storage fails, or there is no sweep.
    """
    return read_many_jobs(sweep_path, SWEEP_NAME, SweepSpec)
