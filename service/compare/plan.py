"""The plan of a comparison: how many runs, steps, bytes and hours, before it starts."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from data_pipeline.order import num_steps_per_epoch
from data_pipeline.text import format_duration
from service.cache_plan import many_cache_lines
from service.compare.cached_runs import cached_runs, num_ended_trials
from service.compare.disk import disk_line
from service.compare.jobs import RunKey
from service.compare.loading import LoadedComparison
from service.compare.spec import CompareSpec, Variant
from service.compare.table import recipe_remarks
from service.compare.timing import can_time, num_that_fit, time_images
from service.compare.tuned_space import tuned_rows
from service.compare.warnings import comparison_warnings
from service.plan import Plan, make_plan
from service.run.result import read_result
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob
from service.spec.networks import STUDENT
from service.sweep.spec import SweepSpec

# Each takes some seconds.
MAX_TIMED = 20
MIN_SHOWN_S = 120


class Amount(NamedTuple):
    """Training that is left of one row: runs and trials, and the epochs of all of them."""

    num_runs: int
    num_trials: int
    num_epochs: int


def format_plan(loaded: LoadedComparison) -> str:
    """The plan as text.

    Raises:
        BadInputError: a model that cannot be built, or does not take the images.
    """
    compare, specs = loaded.compare, loaded.run_specs()
    plans = _job_plans(loaded)
    finished = {key for key, spec in specs.items() if read_result(spec.run_path) is not None}
    searches = tuned_rows(compare)
    left = {
        variant: _left(compare, specs, finished, variant, searches.get(variant))
        for variant in loaded.jobs
    }
    num_concurrent = _num_concurrent(loaded)
    lines = [
        f"comparison {compare.name}, in {compare.compare_path}",
        f"{len(loaded.jobs)} rows x {len(compare.seeds)} seeds = {len(specs)} runs, of which "
        f"{len(finished)} have finished",
        *_rows(compare, specs),
        *_search_lines(compare, searches, left),
        f"left to train: {sum(amount.num_epochs for amount in left.values()):,} epochs, "
        f"{_num_steps(loaded, left):,} steps",
        *many_cache_lines(cached_runs(loaded), are_concurrent=num_concurrent > 1),
        disk_line(loaded, min(num_concurrent, len(specs))),
        _time_line(loaded, specs, finished, left),
        f"each worker: about {max(plan.memory_bytes for plan in plans) / 1e9:.1f} GB of memory",
        *recipe_remarks(compare),
    ]
    warnings = [*comparison_warnings(loaded), *(text for plan in plans for text in plan.warnings)]
    return "\n".join([*lines, *(f"warning: {text}" for text in dict.fromkeys(warnings))])


def _job_plans(loaded: LoadedComparison) -> list[Plan]:
    """The plans of the rows' jobs, without those that have the same one."""
    jobs: dict[str, LoadedJob] = {}
    for job in loaded.jobs.values():
        if not job.spec.uses_teacher:
            # That a row has no use for a teacher is no mistake here.
            job = job._replace(spec=job.spec.model_copy(update={"teacher": None}))
        jobs.setdefault(_plan_key(job.spec), job)
    return [make_plan(job) for job in jobs.values()]


def _left(
    compare: CompareSpec,
    specs: Mapping[RunKey, JobSpec],
    finished: set[RunKey],
    variant: Variant,
    search: SweepSpec | None,
) -> Amount:
    keys = [RunKey(variant, seed) for seed in compare.seeds]
    num_runs = sum(key not in finished for key in keys)
    num_trials = 0 if search is None else search.budget.trials - num_ended_trials(search)
    num_epochs = specs[keys[0]].schedule.num_epochs
    return Amount(num_runs, num_trials, (num_runs + num_trials) * num_epochs)


def _rows(compare: CompareSpec, specs: Mapping[RunKey, JobSpec]) -> Iterator[str]:
    """A line for each row: its losses and its length."""
    for variant in compare.rows():
        spec = specs[RunKey(variant, compare.seeds[0])]
        active = spec.effective_losses().active.items()
        losses = ", ".join(f"{name} {section.weight:g}" for name, section in active)
        yield f"  {variant.label}: {losses}; {spec.schedule.num_epochs} epochs"


def _search_lines(
    compare: CompareSpec, searches: Mapping[Variant, SweepSpec], left: Mapping[Variant, Amount]
) -> Iterator[str]:
    if compare.tuned is None:
        return
    num_trials = sum(search.budget.trials for search in searches.values())
    num_left = sum(amount.num_trials for amount in left.values())
    yield (
        f"before them {len(searches)} searches of {compare.tuned.trials} trials, scored on "
        f"{compare.tuned.held_out.num_images:,} held-out images: {num_trials} trials, of which "
        f"{num_trials - num_left} have ended"
    )
    for variant in compare.rows():
        paths = ", ".join(searches[variant].space) if variant in searches else "nothing to tune"
        yield f"  {variant.label}: {paths}"


def _num_steps(loaded: LoadedComparison, left: Mapping[Variant, Amount]) -> int:
    """Steps of all runs and trials that are left; trials count as those of all images of train."""
    return sum(left[v].num_epochs * _steps_per_epoch(loaded, v) for v in loaded.jobs)


def _steps_per_epoch(loaded: LoadedComparison, variant: Variant) -> int:
    job = loaded.jobs[variant]
    training = job.spec.training
    size, drop_last = training.global_batch_size, training.drop_last
    return num_steps_per_epoch(job.train.num_images, size, drop_last=drop_last)


def _num_concurrent(loaded: LoadedComparison) -> int:
    return loaded.compare.concurrency or num_that_fit(next(iter(loaded.jobs.values())).spec)


def _time_line(
    loaded: LoadedComparison,
    specs: Mapping[RunKey, JobSpec],
    finished: set[RunKey],
    left: Mapping[Variant, Amount],
) -> str:
    """How long it takes: from runs that have finished, or from steps that are timed here."""
    if not any(amount.num_epochs for amount in left.values()):
        return "time: nothing is left to train"
    measured = _measured_s(specs, finished)
    how = "as the runs that have finished took"
    if measured:
        mean_s = sum(measured.values()) / len(measured)
        epoch_s = {variant: measured.get(variant, mean_s) for variant in left}
    elif all(can_time(job.spec) for job in loaded.jobs.values()):
        epoch_s, num_left_out = _timed_s(loaded)
        how = "on a machine like this one"
        if num_left_out:
            how += f" ({num_left_out} rows were not timed, but count as the most alike)"
    else:
        return "time: not known: the runs need a GPU, and this machine has none to time steps on"
    seconds = sum(amount.num_epochs * epoch_s[variant] for variant, amount in left.items())
    num_concurrent = _num_concurrent(loaded)
    return (
        f"time: about {_time_text(seconds / num_concurrent)} {how}, with {num_concurrent} at a "
        f"time; {_time_text(seconds)} of all runs together"
    )


def _time_text(seconds: float) -> str:
    """A duration; starting the runs takes so long that shorter ones mean nothing."""
    return format_duration(seconds) if seconds >= MIN_SHOWN_S else "2 minutes or less"


def _measured_s(specs: Mapping[RunKey, JobSpec], finished: set[RunKey]) -> dict[Variant, float]:
    """Seconds per epoch of the rows that have finished runs."""
    found: dict[Variant, list[float]] = {}
    for key in finished:
        result = read_result(specs[key].run_path)
        if result is not None:
            per_epoch_s = result.training_s / specs[key].schedule.num_epochs
            found.setdefault(key.variant, []).append(per_epoch_s)
    return {variant: sum(times) / len(times) for variant, times in found.items()}


def _timed_s(loaded: LoadedComparison) -> tuple[dict[Variant, float], int]:
    """Seconds per epoch of each row, from steps that are timed now; and how many rows were not.

    Rows beyond MAX_TIMED kinds count as the last timed one with the same networks, or without such
    as the slowest.
    """
    timed: dict[tuple[str, str], float] = {}
    found: dict[Variant, float] = {}
    num_left_out = 0
    for variant, job in loaded.jobs.items():
        key = _plan_key(job.spec), _losses_key(job.spec)
        if key not in timed and len(timed) < MAX_TIMED:
            timed[key] = _timed_epoch_s(loaded, variant)
        num_left_out += key not in timed
        alike = [seconds for (plan, _), seconds in timed.items() if plan == key[0]]
        found[variant] = timed.get(key, alike[-1] if alike else max(timed.values()))
    return found, num_left_out


def _plan_key(spec: JobSpec) -> str:
    """What a step's memory depends on, and its time beside the losses."""
    networks = [
        (
            *(path, network.model, spec.options_of(path), spec.num_classes_of(path)),
            sorted(spec.image_sizes_of(path)),
        )
        for path, network in spec.networks().items()
        if path == STUDENT or spec.uses_teacher
    ]
    how = spec.teacher.mean_of if spec.teacher is not None and spec.uses_teacher else None
    classifier = spec.effective_losses().needs_classifier
    parts = (networks, how, classifier, spec.optimizer.kind, spec.augmentation, spec.training)
    return repr((*parts, spec.dataset.train))


def _losses_key(spec: JobSpec) -> str:
    """What the time of the losses depends on; their weights are only factors."""
    losses = spec.effective_losses()
    active = {
        name: section.model_dump(exclude={"weight", *section.part_weights})
        for name, section in losses.active.items()
    }
    return repr((active, losses.entropy_weights))


def _timed_epoch_s(loaded: LoadedComparison, variant: Variant) -> float:
    """Seconds of an epoch, from steps that are timed now."""
    job = loaded.jobs[variant]
    spec = job.spec
    found = time_images(spec)
    num_images = _steps_per_epoch(loaded, variant) * spec.training.global_batch_size
    training_s = num_images * found.training_s
    evaluation_s = job.val.num_images * found.evaluation_s / spec.evaluation.every_epochs
    return (training_s + evaluation_s) / spec.resources.max_workers
