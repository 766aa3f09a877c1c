"""A job that fills the teacher's cache, so that the first runs find its logits there too."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from data_pipeline.files import remove_tree
from service.build import build_job
from service.cluster.address import check_address
from service.cluster.cache_filling import EpochTask, FillingFailedError, fill_epochs
from service.cluster.connection import check_cluster, connect
from service.run.claim import claim_run_folder, input_tags
from service.run.folder import write_tags
from service.run.report import print_now
from service.run.stop_signals import JobStoppedError, StopSignals
from service.spec.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob
from service.spec.teacher_classes import classes_tags, with_resolved_classes
from service.teacher_cache.demand import FirstEpoch, SharedLogits, shared_logits
from service.teacher_cache.estimate import labels_of

FOLDER_SUFFIX = ".teacher_cache"
MAX_NAME_LENGTH = 80


def run_cache_job(owner: JobSpec, jobs: Sequence[LoadedJob]) -> int:
    """Fill the cache for jobs and return the exit status.

    Args:
        owner: the job; of many, what represents them: its name, its storage path.
        jobs: whose logits are stored, each set of them once; of many, those that are left.

    Raises:
        BadInputError: no job has a cache, or they do not fit the files or the cluster.
    """
    parts = shared_logits(jobs)
    if not parts:
        problem = Problem(
            "teacher.cache",
            "is absent, or no loss of a run that is left needs the teacher",
            'add it, for example "cache": {}',
        )
        raise BadInputError("spec", [problem])
    _check_limit(parts)
    signals = StopSignals()
    check_address()
    with signals.installed(), _claimed(owner, parts) as specs:
        try:
            tasks = _tasks(parts, _built(parts, specs, signals))
            signals.check()
            connect()
            signals.install()
            for resources in {job.spec.resources for job in jobs}:
                check_cluster(resources.model_copy(update={"num_workers": 1}))
            return _fill(tasks, parts, signals.check)
        except JobStoppedError:
            print_now("stopped; the same command computes what is missing")
            return EXIT_STOPPED


def _check_limit(parts: Sequence[SharedLogits]) -> None:
    """Room for all epochs: what would not fit is not worth starting for."""
    for path in {part.path for part in parts}:
        here = [part for part in parts if part.path == path]
        limits = [_limit_bytes(first.job.spec) for part in here for first in part.epochs.values()]
        limit_bytes = min((limit for limit in limits if limit is not None), default=None)
        needed_bytes = sum(part.num_bytes for part in here)
        if limit_bytes is not None and limit_bytes < needed_bytes:
            num_epochs = sum(len(part.epochs) for part in here)
            problem = Problem(
                "teacher.cache.limit_bytes",
                f"is {limit_bytes:,}, but the logits of {num_epochs} epochs have "
                f"{needed_bytes:,} bytes",
                "make it at least that, set teacher.cache.epochs to fewer, or leave it out",
            )
            raise BadInputError("spec", [problem])


def _limit_bytes(spec: JobSpec) -> int | None:
    assert spec.teacher_cache is not None
    return spec.teacher_cache.limit_bytes


@contextmanager
def _claimed(owner: JobSpec, parts: Sequence[SharedLogits]) -> Iterator[dict[str, JobSpec]]:
    """The specs of the jobs that epochs are taken from, by the folders of these, with other folders
    as their own, which are held here.
    """
    jobs = {_name(first): first.job for part in parts for first in part.epochs.values()}
    specs: dict[str, JobSpec] = {}
    with ExitStack() as stack:
        for number, (name, job) in enumerate(jobs.items()):
            suffix = FOLDER_SUFFIX + (f"-{number}" if number else "")
            changes = {
                "name": f"{owner.name[:MAX_NAME_LENGTH]}{suffix}",
                "checkpoints": owner.checkpoints,
            }
            specs[name] = job.spec.model_copy(update=changes)
            stack.enter_context(claim_run_folder(specs[name]))
            stack.callback(remove_tree, specs[name].run_path)
        yield specs


def _name(first: FirstEpoch) -> str:
    return str(first.job.spec.run_path)


def _built(
    parts: Sequence[SharedLogits], specs: dict[str, JobSpec], signals: StopSignals
) -> dict[str, JobSpec]:
    """The specs with weights in files and the teachers' classes resolved; writes their tags."""
    built_specs: dict[str, JobSpec] = {}
    for first in (first for part in parts for first in part.epochs.values()):
        if (name := _name(first)) in built_specs:
            continue
        with signals.interruptible():
            built = build_job(specs[name])
        built_specs[name] = with_resolved_classes(built.spec, first.job.classes)
        # What auto means is found by the same digests in the runs that read the cache.
        digests = {**built.digests, **classes_tags(built_specs[name])}
        write_tags(specs[name].run_path, {**input_tags(first.job), **digests})
    return built_specs


def _tasks(parts: Sequence[SharedLogits], specs: dict[str, JobSpec]) -> list[EpochTask]:
    labels = labels_of(parts)
    return [
        EpochTask(specs[_name(first)], first.epoch, f"{label}, " if label else "")
        for part, label in zip(parts, labels, strict=True)
        for first in part.epochs.values()
    ]


def _fill(tasks: list[EpochTask], parts: Sequence[SharedLogits], check: Callable[[], None]) -> int:
    def report(task: EpochTask, num_computed: int) -> None:
        print_now(
            f"{task.label}epoch {task.epoch + 1}: the teacher's logits of {num_computed:,} images "
            "computed"
        )

    try:
        fill_epochs(tasks, report, check)
    except FillingFailedError as error:
        print_now(f"failed: {error}")
        return EXIT_FAILED
    for path in dict.fromkeys(part.path for part in parts):
        count = sum(len(part.epochs) for part in parts if part.path == path)
        print_now(f"{count} {'epoch is' if count == 1 else 'epochs are'} in {path}")
    return EXIT_DONE
