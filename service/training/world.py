"""A worker's place among all."""

from typing import NamedTuple

import torch


class World(NamedTuple):
    """This worker's place among all."""

    rank: int
    size: int
    device: torch.device
    num_cpus: int
