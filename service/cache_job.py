"""A job that fills the teacher's cache, so that the first run finds its logits there too."""

from data_pipeline.files import remove_tree
from service.build import build_job
from service.cluster.address import check_address
from service.cluster.cache_filling import FillingFailedError, fill_epochs
from service.cluster.connection import check_cluster, connect
from service.run.claim import claim_run_folder
from service.run.report import print_now
from service.run.stop_signals import JobStoppedError, StopSignals
from service.spec.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob
from service.spec.teacher_classes import with_resolved_classes

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
    spec = filling_spec(job.spec)
    signals = StopSignals()
    check_address()
    with signals.installed(), claim_run_folder(spec):
        try:
            with signals.interruptible():
                built = with_resolved_classes(build_job(spec).spec, job.classes)
            signals.check()
            connect()
            signals.install()
            check_cluster(spec.resources)
            with signals.interruptible():
                return _fill(built)
        except JobStoppedError:
            print_now("stopped; the same command computes what is missing")
            return EXIT_STOPPED
        finally:
            remove_tree(spec.run_path)


def _fill(spec: JobSpec) -> int:
    epochs = epochs_to_fill(spec)

    def report(epoch: int, num_computed: int) -> None:
        print_now(f"epoch {epoch + 1}: the teacher's logits of {num_computed:,} images computed")

    try:
        fill_epochs(spec, epochs, report)
    except FillingFailedError as error:
        print_now(f"failed: {error}")
        return EXIT_FAILED
    print_now(f"{len(epochs)} epochs are in {spec.teacher_cache_path}")
    return EXIT_DONE


def filling_spec(spec: JobSpec) -> JobSpec:
    """The spec of one worker that fills the cache for the runs of ``spec``, in a folder of its own.

    Its batches are those of one of their workers, so that they have the same shapes.
    """
    num_micro_batches = -(-spec.num_micro_batches // spec.resources.max_workers)
    batch = {
        "global_batch_size": num_micro_batches * spec.micro_batch_size,
        "micro_batch_size": spec.micro_batch_size,
    }
    return spec.model_copy(
        update={
            "name": f"{spec.name[:MAX_NAME_LENGTH]}{FOLDER_SUFFIX}",
            "training": spec.training.model_copy(update=batch),
            "resources": spec.resources.model_copy(update={"num_workers": 1}),
        }
    )


def epochs_to_fill(spec: JobSpec) -> list[int]:
    """The first epoch of each different set of images, in order."""
    firsts: dict[tuple[int, int], int] = {}
    for epoch in range(spec.schedule.num_epochs):
        firsts.setdefault((spec.draw_epoch(epoch), spec.augmentation.size_at(epoch)), epoch)
    return list(firsts.values())
