"""Batches on the device, copied while the step before them computes."""

from collections.abc import Iterable, Iterator

import torch

from data_pipeline.loader import Batch


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches with images and labels on ``device``.

    On a GPU, the next batch travels from pinned memory on a stream of its own.
    """
    if device.type != "cuda":
        yield from batches
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    computing = torch.cuda.current_stream(device)
    upcoming: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(copying):
            moved = batch._replace(
                images=batch.images.to(device, non_blocking=True),
                labels=batch.labels.to(device, non_blocking=True),
            )
            has_arrived = copying.record_event()
        if upcoming is not None:
            yield _arrived(*upcoming, computing)
        upcoming = (moved, has_arrived)
    if upcoming is not None:
        yield _arrived(*upcoming, computing)


def _arrived(batch: Batch, has_arrived: torch.cuda.Event, computing: torch.cuda.Stream) -> Batch:
    """Let the computing stream wait for the copy, and keep the memory until it is done with it."""
    computing.wait_event(has_arrived)
    for tensor in (batch.images, batch.labels):
        tensor.record_stream(computing)
    return batch
