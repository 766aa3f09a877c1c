"""A spec as a Ray Train job: workers over the cluster, one call of the training loop in each."""

import os
from typing import Any

import ray
import ray.train
import torch
from ray.train import (
    FailureConfig,
    RunConfig,
    ScalingConfig,
)
from ray.train.torch import TorchTrainer, get_device

from service.cluster.network import InterfaceTorchConfig
from service.problems import BadInputError, Problem
from service.spec import JobSpec


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
    needed = {"CPU": resources.num_workers * resources.cpus_per_worker}
    if resources.gpu:
        needed["GPU"] = resources.num_workers
    fields = {"CPU": "resources.cpus_per_worker", "GPU": "resources.gpu"}
    problems = [
        Problem(
            fields[kind],
            f"{resources.num_workers} workers need {count} {kind}s, the cluster has "
            f"{total.get(kind, 0):g}",
            "ask for less in resources, or add nodes",
        )
        for kind, count in needed.items()
        if count > total.get(kind, 0)
    ]
    if problems:
        raise BadInputError("spec", problems)


def run_training(spec: JobSpec) -> None:
    """Train ``spec`` on the cluster and return when the last worker has finished.

    Raises:
        ray.train.TrainingFailedError: the failure budget of the spec is spent.
    """
    resources = spec.resources
    per_worker: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpu:
        per_worker["GPU"] = 1
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config={"spec": spec.model_dump_json()},
        torch_config=InterfaceTorchConfig(timeout_s=resources.collective_timeout_s),
        scaling_config=ScalingConfig(
            num_workers=resources.num_workers,
            use_gpu=resources.gpu,
            resources_per_worker=per_worker,
        ),
        run_config=RunConfig(
            name=spec.name,
            storage_path=str(spec.checkpoints.storage_path),
            failure_config=FailureConfig(max_failures=resources.max_failures),
        ),
    )
    trainer.fit()


def train_on_worker(config: dict[str, Any]) -> None:
    """What Ray runs in every worker process."""
    # Imported here: the driver builds the trainer without paying for the training code.
    from service.training.data import World
    from service.training.loop import train
    from service.training.memory import keep_freed_memory

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
    train(spec, world, _report)


def _report(metrics: dict[str, float]) -> None:
    """Hand metrics to Ray, which shows them in its dashboard; checkpoints are the run's own."""
    ray.train.report(metrics)
