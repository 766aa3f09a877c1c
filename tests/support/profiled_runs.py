"""Profiles runs without Ray: one worker in this process, or several processes."""

import torch.distributed as dist
from support.training_runs import CPU, run_ranks

from service.spec.loading import parse_spec
from service.training.distributed import World
from service.training.profiling.profiler import profile_training, read_profile


def profile_alone(spec):
    spec.run_path.mkdir(parents=True)
    profile_training(spec, World(0, 1, CPU, 1))
    return read_profile(spec.run_path)


def profile_together(content, world_size, tmp_path):
    spec = parse_spec(content)
    spec.run_path.mkdir(parents=True)
    run_ranks(_profile_rank, (content, world_size, tmp_path / "store"), world_size)
    return read_profile(spec.run_path)


def _profile_rank(rank, content, world_size, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    profile_training(parse_spec(content), World(rank, world_size, CPU, 1))
    dist.destroy_process_group()
