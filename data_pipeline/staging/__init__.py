"""Copies a dataset to the node's own disk once, for all processes of the node.

A dataset is NAME.beton with its manifest NAME.beton.json, in an object store or on a shared mount.
It is copied under a lock, checked against its manifest, and renamed when it is complete.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from data_pipeline import verify
from data_pipeline.files import write_atomically
from data_pipeline.manifest import manifest_path
from data_pipeline.staging.cache import Cache, Entry, stored_manifest
from data_pipeline.staging.dataset_copy import DatasetCopy
from data_pipeline.staging.remote import StagingError
from data_pipeline.staging.remote_manifest import read_manifest_at

__all__ = ["Cache", "StagedFile", "StagingError", "read_manifest_at", "stage"]

Report = Callable[[str], None]


@dataclass(frozen=True)
class StagedFile:
    """A .beton on the node's disk; it is not evicted until it is closed or the process ends."""

    path: Path
    _lease: IO[bytes] = field(repr=False)

    def close(self) -> None:
        """Allow the file's eviction."""
        self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _print(text: str) -> None:
    print(text, flush=True)


def stage(location: str, cache: Cache, *, report: Report = _print) -> StagedFile:
    """The dataset at s3://bucket/key, gs://bucket/key or a path, on the node's own disk.

    The first process of a node copies it, and resumes the copy of a process that was killed. Others
    wait and share the copy. ``report`` is called with messages about waiting, progress and
    evictions.

    Raises:
        StagingError: the dataset cannot be read, does not match its manifest, changes while it is
            copied, or does not fit; or the cache's folder cannot be used.
    """
    manifest = read_manifest_at(location)
    entry = cache.entry(manifest["fingerprint"])
    try:
        cache.path.mkdir(parents=True, exist_ok=True)
        waiting = f"waiting for another process that stages {location}"
        with entry.staging(on_wait=lambda: report(waiting)):
            path = _intact_copy(entry, manifest, report)
            if path is None:
                path = DatasetCopy(location, manifest, cache, entry, report).run()
            entry.touch()
            return StagedFile(path, entry.lease())
    except OSError as error:
        raise StagingError(
            f"{cache.path} cannot be used as a cache ({error}); give a folder on a local disk that "
            "this user may write"
        ) from error


def _intact_copy(entry: Entry, manifest: dict[str, Any], report: Report) -> Path | None:
    """The cached file of the dataset with this manifest; None if there is none.

    A file that is damaged, or of another dataset, is removed.
    """
    path = entry.find()
    if path is None:
        return None
    stored = stored_manifest(path)
    if stored.get("fingerprint") != manifest["fingerprint"]:
        report(f"{path} is of another dataset and is replaced")
        entry.remove()
        return None
    try:
        verify.check_quickly(path)
    except ValueError as error:
        report(f"{path} is damaged and is staged again ({error})")
        entry.remove()
        return None
    if stored != manifest:
        # The same samples, described in another way.
        write_atomically(manifest_path(path), json.dumps(manifest))
    return path
