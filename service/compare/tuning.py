"""The searches of a tuned comparison: one for each row, each with the same number of trials."""

import shutil

from data_pipeline.files import write_atomically
from service.compare.spec import CompareSpec, Variant
from service.compare.tuned_space import search_spec
from service.run.claim import has_started
from service.run.folder import write_spec
from service.run.report import print_now
from service.spec.job import JobSpec
from service.sweep.analysis import best_of
from service.sweep.outcome import write_outcome
from service.sweep.progress import ProgressReporter, SweepStatus, summary
from service.sweep.space import Point
from service.sweep.spec import SWEEP_NAME, SweepSpec
from service.sweep.study import STUDY_NAME, Search
from service.sweep.trials import SearchTrials
from service.trials.cluster import TrialCluster
from service.trials.run_trackers import RunTrackers


def found_settings(compare: CompareSpec) -> dict[Variant, Point]:
    """The best settings of the rows whose searches are over; without tuning, of none.

    Raises:
        BadInputError: a search is damaged.
        OSError: the storage fails.
    """
    found: dict[Variant, Point] = {}
    for variant in compare.rows() if compare.tuned is not None else ():
        sweep = search_spec(compare, variant)
        if sweep is None:
            found[variant] = {}
        elif (sweep.sweep_path / STUDY_NAME).exists():
            search = Search(sweep)
            best = best_of(sweep, search.records())
            if best is not None and search.is_over:
                found[variant] = dict(best.params)
    return found


def run_search(
    sweep: SweepSpec, base: JobSpec, trackers: RunTrackers, cluster: TrialCluster
) -> None:
    """Run what is left of a search, and write its files.

    ``base``: that of the sweep, with the paths of weights that were fetched.

    Raises:
        BadInputError: the search is damaged, or no cluster answers.
    """
    folder = sweep.sweep_path
    if folder.exists() and not has_started(folder):
        # Of a submission that was rejected before the first step, perhaps with other settings.
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_spec(sweep.as_job())
    write_atomically(folder / SWEEP_NAME, sweep.model_dump_json(indent=1) + "\n")
    search = Search(sweep)
    if search.is_over:
        return
    status = SweepStatus(sweep.name, sweep.metric_name)
    progress = ProgressReporter(sweep, search, status)
    trials = SearchTrials(sweep, base, search, trackers, progress)
    try:
        cluster.run(trials)
    finally:
        search.stop()
        trials.close()
    write_outcome(sweep, search.records())
    print_now(f"{sweep.name}: {summary(sweep, search.records())}")
