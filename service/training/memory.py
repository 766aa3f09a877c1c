"""A GPU whose memory is too small: a retry would fail again, and the spec's field can be named."""

import contextlib
from collections.abc import Iterator

import torch

from service.spec.job import JobSpec
from service.training.distributed import World

# What allocations say that do not come from torch's own allocator: contexts, cuBLAS, NCCL.
MEMORY_TEXTS = ("out of memory", "ALLOC_FAILED")


class DeviceMemoryError(RuntimeError):
    """Something does not fit into a worker's GPU; the message names the field and the remedy."""


@contextlib.contextmanager
def with_memory_field(world: World, where: str) -> Iterator[None]:
    """Raise ``where`` as a ``DeviceMemoryError`` in place of an error of the device's memory.

    ``where``: the text from ``training_text``, ``evaluation_text`` or ``model_text``.

    Raises:
        DeviceMemoryError: the context ran out of the device's memory.
    """
    try:
        yield
    except DeviceMemoryError:
        raise
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        text = f"{where} ({_memory_text(world)}: {_first_sentence(error)})"
        raise DeviceMemoryError(text) from error


def training_text(spec: JobSpec) -> str:
    """What is too large where a training step runs out of memory, and what would be smaller."""
    size, side = spec.micro_batch_size, spec.augmentation.largest_size
    if spec.num_micro_batches > spec.resources.max_workers:
        limit = spec.training.max_activation_bytes
        return (
            f"training.max_activation_bytes: {limit:,} for images of {side} x {side} do not fit; "
            f"set a smaller number, then a smaller training.micro_batch_size than {size}, and "
            "another name if the run has made steps"
        )
    return (
        f"training.micro_batch_size: {size} images of {side} x {side} do not fit; "
        f"{_smaller(size)}, and another name if the run has made steps"
    )


def evaluation_text(spec: JobSpec) -> str:
    """What is too large where an evaluation runs out of memory, and what would be smaller."""
    size, side = spec.evaluation.batch_size, spec.evaluation.crop_size
    return (
        f"evaluation.batch_size: {size} images of {side} x {side} do not fit; "
        f"{_smaller(size)}, and submit the spec again"
    )


def model_text(spec: JobSpec) -> str:
    """What is too large where the models do not even load."""
    names = [network.model for network in spec.networks().values()]
    return (
        f"student.model: {' and '.join(names)} do not fit before the first image; use smaller "
        "models, or a GPU that nothing else uses"
    )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that the device's memory is full."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(text in str(error) for text in MEMORY_TEXTS)


def _smaller(size: int) -> str:
    factor = next((n for n in range(2, size + 1) if size % n == 0), None)
    if factor is None:
        return "use a smaller model or smaller images"
    return f"set a smaller number, such as {size // factor}"


def _memory_text(world: World) -> str:
    text = f"worker {world.rank}, {world.device}"
    if world.device.type == "cuda":
        # On a full device, the query itself may fail.
        with contextlib.suppress(RuntimeError):
            free, total = torch.cuda.mem_get_info(world.device)
            text += f", {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    return text


def _first_sentence(error: RuntimeError) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(".")
