"""How a worker's micro-batches are put together into forward passes of the student."""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from service.distillation.task import autocast
from service.models.activation_memory import saved_bytes
from service.spec.job import JobSpec
from service.training.distributed import World


class Passes(NamedTuple):
    """``draws``: whether the student draws random numbers. ``size``: micro-batches of a pass."""

    draws: bool = False
    size: int = 1

    def split(self, num_micro_batches: int) -> Iterator[range]:
        """The micro-batches of each pass; the last one may be smaller."""
        for start in range(0, num_micro_batches, self.size):
            yield range(start, min(start + self.size, num_micro_batches))

    def num_passes(self, num_images: int, micro_batch_size: int) -> int:
        """Passes of a worker with this many images."""
        return len(list(self.split(-(-num_images // micro_batch_size))))


def plan_passes(
    spec: JobSpec, student: nn.Module, dtype: torch.dtype | None, world: World
) -> Passes:
    """How the student is called; ``dtype``: of its forward passes, None for float32.

    It depends on the spec, the model and the number of workers alone, so that a resumed run adds up
    in the same order. What draws random numbers has passes of one micro-batch, each with its seed.
    """
    if draws_random_numbers(student, spec.augmentation.largest_size, world.device):
        return Passes(draws=True)
    if spec.num_micro_batches == world.size:
        return Passes()
    per_micro_batch = max(1, _micro_batch_bytes(spec, student, dtype, world.device))
    return Passes(size=max(1, spec.training.max_activation_bytes // per_micro_batch))


def _micro_batch_bytes(
    spec: JobSpec, student: nn.Module, dtype: torch.dtype | None, device: torch.device
) -> int:
    """What the student keeps of a micro-batch for its backward pass."""
    probe, size = copy.deepcopy(student).train(), spec.augmentation.largest_size

    def saved(num_images: int) -> int:
        images = torch.zeros(num_images, 3, size, size, device=device)
        with autocast(device, dtype):
            # The copy has its checkpoints: what they keep is what is seen.
            return saved_bytes(
                probe, images.to(memory_format=torch.channels_last), is_checkpointed=False
            )

    num_views = 1 if spec.augmentation.strong is None else 2
    return num_views * (saved(4) - saved(2)) // 2 * spec.micro_batch_size


def draws_random_numbers(model: nn.Module, size: int, device: torch.device) -> bool:
    """Whether training draws random numbers in a forward pass, as dropout does.

    Seen in a pass of two blank images of ``size`` pixels, which leaves model and generator alone.
    """
    probe = copy.deepcopy(model).train()
    is_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if is_gpu else []), torch.no_grad():
        generator = torch.cuda if is_gpu else torch
        before = generator.get_rng_state()
        probe(torch.zeros(2, 3, size, size, device=device))
        return not torch.equal(generator.get_rng_state(), before)
