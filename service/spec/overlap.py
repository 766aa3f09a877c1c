"""Warnings about images that are trained on and evaluated."""

from collections.abc import Iterator
from pathlib import Path

from data_pipeline.beton import BetonError, BetonFile, open_beton
from data_pipeline.files import is_remote
from data_pipeline.overlap import num_shared
from data_pipeline.selection import sample_keys, split_held_out
from service.spec.data_sections import Dataset, HeldOut


def overlap_warnings(dataset: Dataset, held_out: HeldOut | None) -> Iterator[str]:
    """How many images of val, and of the held-out part of train, are also trained on.

    Nothing is said about a file in an object store, which is not read here, and about one that FFCV
    wrote, which has no digests.
    """
    train = _open(dataset.train)
    if train is None or train.digests is None:
        return
    val = _open(dataset.val)
    if val is not None and val.digests is not None:
        count = num_shared(val.digests, train.digests)
        if count:
            yield (
                f"{count:,} of {val.num_samples:,} images of dataset.val are also in "
                "dataset.train: its accuracy will be too high"
            )
    if held_out is not None:
        yield from _held_out_warnings(train, held_out)


def _held_out_warnings(train: BetonFile, held_out: HeldOut) -> Iterator[str]:
    assert train.digests is not None
    split = split_held_out(train.labels, sample_keys(train), held_out.num_images, held_out.seed)
    digests = train.digests
    count = num_shared(digests[split.held_out], digests[split.remaining])
    if count:
        yield (
            f"{count:,} of {held_out.num_images:,} held-out images are also among the images that "
            "are trained on: dataset.train has copies of them"
        )


def _open(location: str) -> BetonFile | None:
    """The file's tables; None if it is remote, or can no longer be read."""
    if is_remote(location):
        return None
    try:
        return open_beton(Path(location))
    except BetonError:
        return None
