"""What runs in a worker process that is profiled."""

from typing import Any

import ray.train
from ray.train.torch import get_device

from service.cluster.crashes import record_crash
from service.cluster.waiting import record_placement
from service.spec.job import JobSpec


def profile_on_worker(config: dict[str, Any]) -> None:
    """What Ray Train calls in place of ``worker_process.train_on_worker``."""
    # Imported here: the driver refers to this function without importing the training code.
    from service.training.distributed import World, prepare_process
    from service.training.profiling.profiler import profile_training

    context, spec = ray.train.get_context(), JobSpec.model_validate_json(config["spec"])
    rank, device = context.get_world_rank(), get_device()
    if rank == 0:
        record_placement(spec.run_path)
    prepare_process(
        device,
        deterministic=spec.training.deterministic,
        matmul_precision=spec.training.matmul_precision,
    )
    with record_crash(spec.run_path, rank):
        num_workers = context.get_world_size()
        profile_training(spec, World(rank, num_workers, device, spec.resources.cpus_per_worker))
