"""One worker's run, from the last checkpoint to the last epoch."""

import contextlib

from data_pipeline.loader import UndecodableSampleError
from service.problems import EXIT_FAILED
from service.spec import JobSpec
from service.training.leaving import Notice
from service.training.refusal import RefusedError, leave_reason
from service.training.worker import Report, Worker
from service.training.world import World


def train(
    spec: JobSpec,
    world: World,
    report: Report = lambda _: None,
    notice: Notice = lambda: None,
) -> None:
    """Train this worker's share of ``spec``; ``report`` is given what each epoch came to.

    Every rank runs this; all meet at each step, evaluation and report. A run that is refused, by
    all ranks together, says why in a file beside it and ends without an error.

    Raises:
        LeavingError: ``notice``, or a request beside the run, asked for it; the state is saved.
        UndecodableSampleError: on one rank; it too says why, since it would come again.
    """
    try:
        with contextlib.suppress(RefusedError), Worker(spec, world, report, notice) as worker:
            worker.check_teacher()
            while worker.progress.epoch < spec.schedule.num_epochs:
                for batch in worker.remaining_batches():
                    output = worker.step(batch)
                    worker.log_if_due(output)
                    worker.save_or_leave()
                worker.finish_epoch()
    except UndecodableSampleError as error:
        leave_reason(spec, f"{spec.name} failed: {error}", EXIT_FAILED)
        raise
