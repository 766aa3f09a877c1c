"""Batches on the device: the next one is copied while the current one is computed."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from data_pipeline.batches import Batch

Values = TypeVar("Values", bound=tuple[Any, ...])


def prefetch_to_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches with their tensors on ``device``.

    On a GPU, the next batch is copied from pinned memory on a stream of its own while the current
    one is computed.
    """
    if device.type != "cuda":
        yield from batches
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    computing = torch.cuda.current_stream(device)
    upcoming: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(copying):
            moved = to_device(batch, device)
            has_arrived = copying.record_event()
        if upcoming is not None:
            yield _arrived(*upcoming, computing)
        upcoming = (moved, has_arrived)
    if upcoming is not None:
        yield _arrived(*upcoming, computing)


def to_device(values: Values, device: torch.device) -> Values:
    """A named tuple with its tensors, also those of named tuples within it, on ``device``.

    Tensors in pinned memory are copied to a GPU without waiting; they are kept until that is done.
    """
    moved = (_moved(value, device) for value in values)
    return type(values)(*moved)


def _moved(value: Any, device: torch.device) -> Any:  # noqa: ANN401 - any field
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return to_device(value, device) if isinstance(value, tuple) else value


def _arrived(batch: Batch, has_arrived: torch.cuda.Event, computing: torch.cuda.Stream) -> Batch:
    """Make the computing stream wait for the copy, and keep the memory until it is done."""
    computing.wait_event(has_arrived)
    for tensor in _tensors(batch):
        tensor.record_stream(computing)
    return batch


def _tensors(values: tuple[Any, ...]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from _tensors(value)
