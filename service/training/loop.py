"""One worker's run, from the last checkpoint to the last epoch."""

from service.spec import JobSpec
from service.training.worker import Report, Worker, World


def train(spec: JobSpec, world: World, report: Report) -> None:
    """Train this worker's share of ``spec``; ``report`` hands results and checkpoints upwards.

    Every rank runs this; all meet at each gradient, evaluation and report.
    """
    with Worker(spec, world, report) as worker:
        if not worker.accept_teacher():
            return
        while worker.progress.epoch < spec.schedule.num_epochs:
            for batch in worker.remaining_batches():
                output = worker.step(batch)
                worker.log_if_due(output)
            worker.finish_epoch()
