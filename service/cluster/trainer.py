"""A spec as a Ray Train job: workers over the cluster, one call of the training loop in each."""

import os
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.constants import (
    COLLECTIVE_TIMEOUT_S_ENV_VAR,
    ENABLE_PREEMPTION_WATCHER_ENV_VAR,
    HEALTH_CHECK_INTERVAL_S_ENV_VAR,
    PREEMPTION_POLL_INTERVAL_S_ENV_VAR,
    WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
    WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR,
)

from service.cluster.in_process import run_controller
from service.cluster.network import InterfaceTorchConfig
from service.cluster.no_helpers import NoHelpers
from service.cluster.policies import ElasticPolicy, RunFailurePolicy
from service.cluster.signals import reason_to_leave
from service.problems import BadInputError, Problem
from service.spec import JobSpec

PREEMPTION_POLL_S = 1
# How soon Ray notices that a worker has ended, well or not.
LOOK_AT_WORKERS_S = 0.5
# With a range of workers another number is tried then; otherwise the same one, for ever.
PLACEMENT_TIMEOUT_S = 20


def connect() -> None:
    """Join the cluster of this Ray job, of RAY_ADDRESS or of this machine, or start one here.

    Raises:
        BadInputError: RAY_ADDRESS names no cluster.
    """
    try:
        # Workers speak through the journal; what they print stays in Ray's own logs.
        ray.init(log_to_driver=False, logging_level="WARNING")
    except ConnectionError as error:
        address = os.environ.get("RAY_ADDRESS", "this machine")
        problem = Problem(
            "RAY_ADDRESS",
            f"the cluster of {address} does not answer, or refuses the token",
            "set its address and RAY_AUTH_TOKEN_PATH, or RAY_ADDRESS=local to start one here",
        )
        raise BadInputError("environment", [problem]) from error


def check_cluster(spec: JobSpec) -> None:
    """Refuse a job that the cluster as it stands can never place.

    Raises:
        BadInputError: naming the resource that is short.
    """
    resources = spec.resources
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
            "ask for less in resources, or add nodes",
        )
        for kind, count in needed.items()
        if count > total.get(kind, 0)
    ]
    if problems:
        raise BadInputError("spec", problems)


def run_training(spec: JobSpec, *, controls_here: bool = False) -> None:
    """Train ``spec`` on the cluster and return when the last worker has finished.

    ``controls_here``: Ray's controller is part of this process, and not one more: it need not be
    started, and cannot outlive this one. The workers stay for the next run, until
    ``KeepingWorkerGroup.dismiss_kept`` is called.

    Raises:
        ray.train.TrainingFailedError: the failure budget of the spec is spent, the run was refused,
            or it was asked to stop.
    """
    resources = spec.resources
    per_worker: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpu:
        per_worker["GPU"] = 1
    # Ray hands these on to its controller and to the workers.
    os.environ[WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR] = str(resources.silence_timeout_s)
    os.environ[COLLECTIVE_TIMEOUT_S_ENV_VAR] = str(resources.collective_timeout_s)
    os.environ[HEALTH_CHECK_INTERVAL_S_ENV_VAR] = str(LOOK_AT_WORKERS_S)
    os.environ[PREEMPTION_POLL_INTERVAL_S_ENV_VAR] = str(PREEMPTION_POLL_S)
    os.environ[ENABLE_PREEMPTION_WATCHER_ENV_VAR] = "0"
    if resources.is_elastic:
        os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] = str(PLACEMENT_TIMEOUT_S)
    trainer = RunTrainer(
        train_on_worker,
        train_loop_config={"spec": spec.model_dump_json()},
        torch_config=InterfaceTorchConfig(timeout_s=resources.collective_timeout_s),
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
    trainer.run_path, trainer.controls_here = spec.run_path, controls_here
    trainer.fit()


class RunTrainer(TorchTrainer):  # type: ignore[misc]
    """Ray's trainer with this service's decisions about failures and the number of workers."""

    run_path: Path
    controls_here = False

    def _initialize_and_run_controller(self, **parts: Any) -> ray.train.Result:  # noqa: ANN401
        failure_config = self.run_config.failure_config
        parts["failure_policy"] = RunFailurePolicy(failure_config, self.run_path)
        if self.scaling_config.elasticity_enabled:
            parts["scaling_policy"] = ElasticPolicy(self.scaling_config, self.run_path)
        # It is one more process to start, every time that workers begin, for Ray's own datasets.
        parts["callbacks"] = [
            *(c for c in parts["callbacks"] if not isinstance(c, DatasetsCallback)),
            NoHelpers(),
        ]
        if self.controls_here:
            return run_controller(parts)
        return super()._initialize_and_run_controller(**parts)


def train_on_worker(config: dict[str, Any]) -> None:
    """What Ray runs in every worker process."""
    # Imported here: the driver builds the trainer without paying for the training code.
    from service.training.loop import train
    from service.training.memory import keep_freed_memory
    from service.training.world import World

    spec = JobSpec.model_validate_json(config["spec"])
    context = ray.train.get_context()
    device = get_device()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    else:
        keep_freed_memory()
    world = World(
        context.get_world_rank(),
        context.get_world_size(),
        device,
        spec.resources.cpus_per_worker,
    )
    # Nothing is reported to Ray: metrics and checkpoints are the run's own, and Ray would hold the
    # workers at each report until its controller has come by to take it.
    train(spec, world, notice=reason_to_leave)
