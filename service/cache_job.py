"""A job that fills the teacher's cache, so that the first run finds its logits there too."""

from collections.abc import Callable

from data_pipeline.files import remove_tree
from service.build import build_job
from service.cluster.address import check_address
from service.cluster.cache_filling import FillingFailedError, fill_epochs
from service.cluster.connection import check_cluster, connect
from service.run.claim import claim_run_folder, input_tags
from service.run.folder import write_tags
from service.run.report import print_now
from service.run.stop_signals import JobStoppedError, StopSignals
from service.spec.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob
from service.spec.teacher_cache_rules import num_trained_images
from service.spec.teacher_classes import classes_tags, with_resolved_classes

FOLDER_SUFFIX = ".teacher_cache"
MAX_NAME_LENGTH = 80


def run_cache_job(job: LoadedJob) -> int:
    """Fill the cache of a job's teacher and return the exit status.

    Raises:
        BadInputError: the spec has no cache, or does not fit the files or the cluster.
    """
    if job.spec.teacher_cache is None:
        problem = Problem(
            "teacher.cache",
            "is absent, or no loss needs the teacher",
            'add it, for example "cache": {}',
        )
        raise BadInputError("spec", [problem])
    _check_limit(job)
    name = f"{job.spec.name[:MAX_NAME_LENGTH]}{FOLDER_SUFFIX}"
    spec = job.spec.model_copy(update={"name": name})
    signals = StopSignals()
    check_address()
    with signals.installed(), claim_run_folder(spec):
        try:
            with signals.interruptible():
                built = build_job(spec)
            trained_spec = with_resolved_classes(built.spec, job.classes)
            # What auto means is found by the same digests in the runs that read the cache.
            digests = {**built.digests, **classes_tags(trained_spec)}
            write_tags(spec.run_path, {**input_tags(job), **digests})
            signals.check()
            connect()
            signals.install()
            check_cluster(spec.resources.model_copy(update={"num_workers": 1}))
            return _fill(trained_spec, signals.check)
        except JobStoppedError:
            print_now("stopped; the same command computes what is missing")
            return EXIT_STOPPED
        finally:
            remove_tree(spec.run_path)


def _check_limit(job: LoadedJob) -> None:
    """Room for all epochs: what would not fit is not worth starting for."""
    spec, cache = job.spec, job.spec.teacher_cache
    assert cache is not None
    num_epochs = len(epochs_to_fill(spec))
    row_bytes = cache.row_bytes(spec.dataset.num_classes, spec.num_teacher_views)
    needed_bytes = num_epochs * num_trained_images(job.train, spec.dataset) * row_bytes
    if cache.limit_bytes is not None and cache.limit_bytes < needed_bytes:
        problem = Problem(
            "teacher.cache.limit_bytes",
            f"is {cache.limit_bytes:,}, but the logits of {num_epochs} epochs have "
            f"{needed_bytes:,} bytes",
            "make it at least that, set teacher.cache.epochs to fewer, or leave it out",
        )
        raise BadInputError("spec", [problem])


def _fill(spec: JobSpec, check: Callable[[], None]) -> int:
    epochs = epochs_to_fill(spec)

    def report(epoch: int, num_computed: int) -> None:
        print_now(f"epoch {epoch + 1}: the teacher's logits of {num_computed:,} images computed")

    try:
        fill_epochs(spec, epochs, report, check)
    except FillingFailedError as error:
        print_now(f"failed: {error}")
        return EXIT_FAILED
    print_now(f"{len(epochs)} epochs are in {spec.teacher_cache_path}")
    return EXIT_DONE


def epochs_to_fill(spec: JobSpec) -> list[int]:
    """The first epoch of each different set of images, in order."""
    firsts: dict[tuple[int, int], int] = {}
    for epoch in range(spec.schedule.num_epochs):
        firsts.setdefault((spec.draw_epoch(epoch), spec.augmentation.size_at(epoch)), epoch)
    return list(firsts.values())
