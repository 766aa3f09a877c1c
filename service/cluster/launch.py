"""Launches a run on the cluster: joins it, checks its resources, and trains with Ray Train."""

import errno
import os
import secrets
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.exceptions import AuthenticationError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from service.cluster.address import check_address, token_error
from service.cluster.controller import DrainWatcher, run_controller
from service.cluster.policies import ElasticPolicy, FailurePolicy
from service.cluster.ray_internals import (
    COLLECTIVE_TIMEOUT_S_ENV_VAR,
    ENABLE_PREEMPTION_WATCHER_ENV_VAR,
    HEALTH_CHECK_INTERVAL_S_ENV_VAR,
    PREEMPTION_POLL_INTERVAL_S_ENV_VAR,
    WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
    WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR,
    DatasetsCallback,
    keep_sigterm_handler,
)
from service.cluster.worker_process import ServiceTorchConfig, train_on_worker
from service.run.waiting import clear_waiting
from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.sections import Resources

PREEMPTION_POLL_S = 1
# How soon Ray notices that a worker has ended, well or not.
HEALTH_CHECK_INTERVAL_S = 0.5
# After it, an elastic run that waits for room tries another number of workers; others wait on.
PLACEMENT_TIMEOUT_S = 20
NO_TIMEOUT_S = 10**9
NCCL_TIMEOUT_FACTOR = 2
# Of a home directory that another user owns, is on a read-only disk, or is no directory.
UNWRITABLE = (errno.EACCES, errno.EROFS, errno.ENOTDIR)


def connect() -> None:
    """Join the cluster of this Ray job, of RAY_ADDRESS or of this machine, or start one here.

    Raises:
        BadInputError: no cluster answers at RAY_ADDRESS, or it rejects the token.
    """
    check_address()
    address = os.environ.get("RAY_ADDRESS") or "of this machine"
    keep_sigterm_handler()
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
    # Workers log through the journal; what they print stays in Ray's own logs.
    ray.init(log_to_driver=False, logging_level="WARNING")


def check_cluster(resources: Resources) -> None:
    """Refuse resources that the cluster as it is can never provide.

    Raises:
        BadInputError: naming the resource that is short.
    """
    total = ray.cluster_resources()
    needed = {"CPU": resources.min_workers * resources.cpus_per_worker}
    if resources.gpu:
        needed["GPU"] = resources.min_workers
    fields = {"CPU": "resources.cpus_per_worker", "GPU": "resources.gpu"}
    problems = [
        Problem(
            fields[kind],
            f"{resources.min_workers} workers need {count} {kind}s, the cluster has "
            f"{total.get(kind, 0):g}",
            "request less in resources, or add nodes",
        )
        for kind, count in needed.items()
        if count > total.get(kind, 0)
    ]
    if problems:
        raise BadInputError("spec", problems)


def run_training(spec: JobSpec, *, in_process: bool = False) -> None:
    """Train ``spec`` on the cluster and return when the last worker has finished.

    ``in_process``: run Ray's controller in this process, so that it needs no start and cannot
    outlive this one. The workers are then reused by the next run, until
    ``ReusableWorkerGroup.shutdown_idle`` is called.

    Raises:
        ray.train.TrainingFailedError: the spec's failure budget is spent, or the run was aborted
            or stopped.
    """
    _set_environment(spec.resources)
    resources = spec.resources
    per_worker: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpu:
        per_worker["GPU"] = 1
    trainer = RunTrainer(
        train_on_worker,
        train_loop_config={"spec": spec.model_dump_json()},
        torch_config=ServiceTorchConfig(timeout_s=process_group_timeout_s(resources)),
        scaling_config=ScalingConfig(
            num_workers=resources.num_workers,
            use_gpu=resources.gpu,
            resources_per_worker=per_worker,
            elastic_resize_monitor_interval_s=resources.resize_interval_s,
        ),
        run_config=RunConfig(
            name=spec.name,
            storage_path=str(spec.checkpoints.storage_path),
            failure_config=FailureConfig(max_failures=resources.max_failures),
        ),
    )
    trainer.run_path, trainer.in_process = spec.run_path, in_process
    clear_waiting(spec.run_path)
    try:
        trainer.fit()
    finally:
        clear_waiting(spec.run_path)


def process_group_timeout_s(resources: Resources) -> int:
    """Seconds after which a collective operation of gradients fails.

    Workers wait for each other between CPUs before they wait for their GPUs, and there find one
    that hangs. NCCL's watchdog must not be sooner: it aborts the healthy processes.
    """
    timeout_s = resources.collective_timeout_s
    return NCCL_TIMEOUT_FACTOR * timeout_s if resources.gpu else timeout_s


def _set_environment(resources: Resources) -> None:
    """Settings that Ray reads from the environment, and passes to its controller and workers."""
    os.environ[WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR] = str(resources.heartbeat_timeout_s)
    os.environ[COLLECTIVE_TIMEOUT_S_ENV_VAR] = str(resources.collective_timeout_s)
    os.environ[HEALTH_CHECK_INTERVAL_S_ENV_VAR] = str(HEALTH_CHECK_INTERVAL_S)
    os.environ[PREEMPTION_POLL_INTERVAL_S_ENV_VAR] = str(PREEMPTION_POLL_S)
    os.environ[ENABLE_PREEMPTION_WATCHER_ENV_VAR] = "0"
    placement_timeout_s = PLACEMENT_TIMEOUT_S if resources.is_elastic else NO_TIMEOUT_S
    os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] = str(placement_timeout_s)


class RunTrainer(TorchTrainer):  # type: ignore[misc]
    """Ray's trainer with this service's failure and scaling policies."""

    run_path: Path
    in_process = False

    def _initialize_and_run_controller(self, **parts: Any) -> ray.train.Result:  # noqa: ANN401
        failure_config = self.run_config.failure_config
        parts["failure_policy"] = FailurePolicy(failure_config, self.run_path)
        if self.scaling_config.elasticity_enabled:
            parts["scaling_policy"] = ElasticPolicy(self.scaling_config, self.run_path)
        # Ray's own datasets are not used; their callback would start one more process.
        parts["callbacks"] = [
            *(c for c in parts["callbacks"] if not isinstance(c, DatasetsCallback)),
            DrainWatcher(),
        ]
        if self.in_process:
            return run_controller(parts)
        return super()._initialize_and_run_controller(**parts)

    def _register_sigint_handler(self, controller: Any) -> None:  # noqa: ANN401 - Ray's type
        """Leave SIGINT alone; Ray would abort the run without a checkpoint."""
