"""The plan of a comparison: how many runs, steps, bytes and hours, before it starts."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch

from data_pipeline.order import num_steps_per_epoch
from data_pipeline.staging.cache import format_bytes
from service.compare.jobs import RunKey
from service.compare.loading import LoadedComparison
from service.compare.spec import CompareSpec, Variant
from service.compare.table import recipe_remarks
from service.compare.timing import can_time, num_that_fit, time_images
from service.compare.tuned_space import tuned_rows
from service.compare.warnings import comparison_warnings
from service.models.build import build_on_meta_device
from service.plan import Plan, make_plan
from service.run.result import read_result
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob
from service.spec.networks import STUDENT
from service.sweep.spec import SweepSpec
from service.sweep.study import STUDY_NAME, Search

# Copies of the student's size in a checkpoint, beside the weights: the optimizer's state.
OPTIMIZER_COPIES = {"sgd": 1, "adamw": 2}


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
    lines = [
        f"comparison {compare.name}, in {compare.compare_path}",
        f"{len(loaded.jobs)} rows x {len(compare.seeds)} seeds = {len(specs)} runs, of which "
        f"{len(finished)} have finished",
        *_rows(compare, specs),
        *_search_lines(compare, searches, left),
        f"left to train: {sum(amount.num_epochs for amount in left.values()):,} epochs, "
        f"{_num_steps(loaded, left):,} steps",
        *_disk_lines(loaded, specs),
        _time_line(loaded, specs, finished, left),
        f"each worker: about {max(plan.memory_bytes for plan in plans) / 1e9:.1f} GB of memory",
        *recipe_remarks(compare),
    ]
    warnings = [*comparison_warnings(loaded), *(text for plan in plans for text in plan.warnings)]
    return "\n".join([*lines, *(f"warning: {text}" for text in dict.fromkeys(warnings))])


def _job_plans(loaded: LoadedComparison) -> list[Plan]:
    """The plans of the rows' jobs, without those that differ in their losses only."""
    jobs: dict[str, LoadedJob] = {}
    for job in loaded.jobs.values():
        if not job.spec.uses_teacher:
            # That a row has no use for a teacher is no mistake here.
            job = job._replace(spec=job.spec.model_copy(update={"teacher": None}))
        jobs.setdefault(_time_key(job.spec), job)
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
    num_trials = 0 if search is None else search.budget.trials - _num_ended(search)
    num_epochs = specs[keys[0]].schedule.num_epochs
    return Amount(num_runs, num_trials, (num_runs + num_trials) * num_epochs)


def _num_ended(search: SweepSpec) -> int:
    """Trials of a search that will not run again."""
    if not (search.sweep_path / STUDY_NAME).exists():
        return 0
    return sum(r.state in ("finished", "failed") for r in Search(search).records())


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


def _disk_lines(loaded: LoadedComparison, specs: Mapping[RunKey, JobSpec]) -> Iterator[str]:
    """Bytes of the students that stay, and of the checkpoints of the runs that train."""
    sizes = {variant: _student_bytes(job.spec) for variant, job in loaded.jobs.items()}
    searches = tuned_rows(loaded.compare)
    num_trials = {v: searches[v].budget.trials if v in searches else 0 for v in sizes}
    num_seeds = len(loaded.compare.seeds)
    students = sum(size * (num_seeds + num_trials[v]) for v, size in sizes.items())
    largest = max(_checkpoint_bytes(job.spec, sizes[v]) for v, job in loaded.jobs.items())
    num_concurrent = min(_num_concurrent(loaded), len(specs))
    yield (
        f"disk: {format_bytes(students)} of students, and {format_bytes(largest)} of checkpoints "
        f"of each run while it trains; at most {format_bytes(students + num_concurrent * largest)} "
        f"with {num_concurrent} at a time"
    )


def _student_bytes(spec: JobSpec) -> int:
    model = build_on_meta_device(spec.student.model, spec.dataset.num_classes)
    tensors = model.state_dict().values()
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


def _checkpoint_bytes(spec: JobSpec, student_bytes: int) -> int:
    """Of one run: those that are kept, and the one that is being written."""
    copies = 1 + OPTIMIZER_COPIES[spec.optimizer.kind] + (spec.training.ema_decay is not None)
    return student_bytes * copies * (spec.checkpoints.num_to_keep + 1)


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
    if not measured and not all(can_time(job.spec) for job in loaded.jobs.values()):
        return "time: not known: the runs need a GPU, and this machine has none to time steps on"
    seconds = 0.0
    timed: dict[str, float] = {}
    for variant, amount in left.items():
        if measured:
            mean_s = sum(measured.values()) / len(measured)
            seconds += amount.num_epochs * measured.get(variant, mean_s)
        else:
            key = _time_key(loaded.jobs[variant].spec)
            if key not in timed:
                timed[key] = _timed_epoch_s(loaded, variant)
            seconds += amount.num_epochs * timed[key]
    num_concurrent = _num_concurrent(loaded)
    how = "as the runs that have finished took" if measured else "on a machine like this one"
    return (
        f"time: about {_time_text(seconds / num_concurrent)} {how}, with {num_concurrent} at a "
        f"time; {_time_text(seconds)} of all runs together"
    )


def _time_text(seconds: float) -> str:
    """A duration with two digits, as an estimate deserves."""
    hours, minutes = seconds / 3600, seconds / 60
    if hours >= 1:
        return f"{hours:.2g} hours" if hours < 10 else f"{hours:,.0f} hours"
    return f"{minutes:.0f} minutes" if minutes >= 2 else "2 minutes or less"


def _measured_s(specs: Mapping[RunKey, JobSpec], finished: set[RunKey]) -> dict[Variant, float]:
    """Seconds per epoch of the rows that have finished runs."""
    found: dict[Variant, list[float]] = {}
    for key in finished:
        result = read_result(specs[key].run_path)
        if result is not None:
            per_epoch_s = result.training_s / specs[key].schedule.num_epochs
            found.setdefault(key.variant, []).append(per_epoch_s)
    return {variant: sum(times) / len(times) for variant, times in found.items()}


def _time_key(spec: JobSpec) -> str:
    """What the time of a step depends on."""
    networks = [
        (path, network.model)
        for path, network in spec.networks().items()
        if path == STUDENT or spec.uses_teacher
    ]
    parts = (networks, spec.augmentation, spec.training, spec.dataset.train)
    return repr(parts)


def _timed_epoch_s(loaded: LoadedComparison, variant: Variant) -> float:
    """Seconds of an epoch, from steps that are timed now."""
    job = loaded.jobs[variant]
    spec = job.spec
    found = time_images(spec)
    num_images = _steps_per_epoch(loaded, variant) * spec.training.global_batch_size
    training_s = num_images * found.training_s
    evaluation_s = job.val.num_images * found.evaluation_s / spec.evaluation.every_epochs
    return (training_s + evaluation_s) / spec.resources.max_workers
