"""One worker's run, from the last checkpoint to the last epoch."""

import contextlib

from service.spec import JobSpec
from service.training.data import World
from service.training.refusal import RefusedError
from service.training.worker import Report, Worker


def train(spec: JobSpec, world: World, report: Report) -> None:
    """Train this worker's share of ``spec``; ``report`` hands results and checkpoints upwards.

    Every rank runs this; all meet at each gradient, evaluation and report. A run that is refused,
    by all ranks together, says why in a file beside it and ends without an error.
    """
    with contextlib.suppress(RefusedError), Worker(spec, world, report) as worker:
        worker.check_teacher()
        while worker.progress.epoch < spec.schedule.num_epochs:
            for batch in worker.remaining_batches():
                output = worker.step(batch)
                worker.log_if_due(output)
                worker.save_if_due()
            worker.finish_epoch()
