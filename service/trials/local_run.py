"""Trains a run of one worker in this process, an actor of Ray Tune, which trains the next one too.

A process that has imported torch trains at once; starting one takes longer than many a trial
trains for.
"""

import time

import torch
from ray.train import WorkerGroupError

from service.cluster.retries import Retries
from service.cluster.worker_process import (
    DRAIN_POLL_S,
    is_node_drained,
    reset_process,
    train_as,
)
from service.run.control import GracefulStop, pending_request
from service.spec.job import JobSpec
from service.trials.watchdog import Watchdog


def train_here(spec: JobSpec) -> None:
    """Train ``spec`` to its last epoch, as Ray Train's one worker would.

    Raises:
        WorkerGroupError: the spec's failure budget is spent, or the run was aborted or stopped.
        GracefulStop: it was stopped while it waited for the end of its node.
    """
    device = torch.device("cuda", 0) if spec.resources.gpu else torch.device("cpu")
    retries = Retries(spec)
    watchdog = Watchdog(spec.run_path, spec.resources.heartbeat_timeout_s)
    try:
        while True:
            reset_process()
            try:
                return train_as(spec, 0, 1, device)
            except Exception as error:
                failure = WorkerGroupError(str(error), {0: error})
                if not retries.may_retry(failure):
                    raise failure from error
            _wait_while_drained(spec)
    finally:
        watchdog.close()
        reset_process()


def _wait_while_drained(spec: JobSpec) -> None:
    """Train nothing on a node that is about to end; Tune then starts the trial on another one.

    Raises:
        GracefulStop: a stop was requested.
    """
    while is_node_drained():
        if pending_request(spec.run_path) == "stop":
            raise GracefulStop("a stop was requested on a node that is being drained")
        time.sleep(DRAIN_POLL_S)
