"""Joins a cluster, or starts one here, and checks that it has what a job needs."""

import errno
import logging
import os
import secrets
import threading
from concurrent.futures import Future

import ray
from ray.exceptions import AuthenticationError

from service.cluster.address import check_address, token_error
from service.cluster.waiting import resources_per_worker
from service.spec.errors import BadInputError, Problem
from service.spec.sections import Resources

# Errors of writing to a home directory of another user, on a read-only disk, or that is a file.
UNWRITABLE = (errno.EACCES, errno.EROFS, errno.ENOTDIR)
# KubeRay sets it to true on the head of a cluster with an autoscaler.
AUTOSCALER_VARIABLE = "RAY_enable_autoscaler_v2"


def connect() -> None:
    """Join the cluster of this Ray job, of RAY_ADDRESS or of this machine, or start one here.

    Raises:
        BadInputError: no cluster answers at RAY_ADDRESS, or it rejects the token.
    """
    check_address()
    address = os.environ.get("RAY_ADDRESS") or "of this machine"
    try:
        try:
            _init_ray()
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            # Ray stores the token of a cluster that it starts in the home directory, which cannot
            # be written; the processes of the cluster inherit this one.
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
            _init_ray()
    except (ConnectionError, AuthenticationError) as error:
        raise token_error(address) from error


def _init_ray() -> None:
    """Call ``ray.init()`` on another thread, where it leaves the handler of SIGTERM alone.

    Its own handler ends the process, with a status of 1. It warns that it installs none. The thread
    goes on: processes that Ray starts end with the thread that started them.
    """
    outcome: Future[None] = Future()

    def init_and_stay() -> None:
        try:
            # Workers log through the journal; what they print stays in Ray's own logs.
            ray.init(log_to_driver=False, logging_level="ERROR")
        except BaseException as error:
            outcome.set_exception(error)
            return
        outcome.set_result(None)
        threading.Event().wait()

    threading.Thread(target=init_and_stay, name="ray-init", daemon=True).start()
    outcome.result()
    logging.getLogger("ray").setLevel(logging.WARNING)


def check_cluster(resources: Resources) -> None:
    """Refuse resources that the cluster as it is can never provide.

    Where an autoscaler adds nodes, a job waits for them, as it waits beside other jobs.

    Raises:
        BadInputError: naming the resource that is short.
    """
    if os.environ.get(AUTOSCALER_VARIABLE) == "true":
        return
    total = ray.cluster_resources()
    per_worker = resources_per_worker(resources)
    needed = {kind: resources.min_workers * count for kind, count in per_worker.items()}
    fields = {"CPU": "resources.cpus_per_worker", "GPU": "resources.gpu"}
    problems = [
        Problem(
            fields[kind],
            f"{resources.min_workers} workers need {count:g} {kind}s, the cluster has "
            f"{total.get(kind, 0):g}",
            "request less in resources, or add nodes",
        )
        for kind, count in needed.items()
        if count > total.get(kind, 0)
    ]
    if problems:
        raise BadInputError("spec", problems)
