"""Copies one dataset into the cache: free the space, copy, verify, rename."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline import verify
from data_pipeline.files import remove_tree, sync_to_disk, write_atomically
from data_pipeline.manifest import manifest_path
from data_pipeline.shared_folders import is_real_folder, locked
from data_pipeline.staging.cache import Cache, Entry
from data_pipeline.staging.eviction import free_space, no_space_error
from data_pipeline.staging.fetch import PartialCopy, allocate, chunk_log_path, fetch
from data_pipeline.staging.remote import RemoteFile, StagingError, remote_file
from data_pipeline.staging.remote_manifest import read_manifest_at

# A store under the load of many nodes may be slow to send a chunk.
DATA_TIMEOUT_S = 30.0

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class DatasetCopy:
    """Copies the dataset at ``location``; the caller holds the entry's lock.

    ``manifest``: as read at ``location``. ``report`` is called with messages about evictions and
    progress.
    """

    location: str
    manifest: dict[str, Any]
    cache: Cache
    entry: Entry
    report: Callable[[str], None]

    def run(self) -> Path:
        """Copy, verify and rename; returns the final path.

        Raises:
            StagingError: the source cannot be read, changes, or does not match its manifest; or
                the dataset does not fit.
            OSError: the cache's disk fails.
        """
        source = remote_file(self.location, DATA_TIMEOUT_S)
        num_kept = self._copy(source)
        fault = self._fault()
        if fault and num_kept:
            self.report(f"the resumed copy is damaged ({fault}); copying again from the start")
            self._copy(source)
            fault = self._fault()
        if fault:
            raise StagingError(
                f"{self.location} does not match its manifest ({fault}); convert it again, or "
                "upload the file and its manifest again"
            ) from fault
        self._rename()
        return self._path

    @property
    def _path(self) -> Path:
        return self.entry.folder / self.location.rsplit("/", 1)[-1]

    @property
    def _partial_path(self) -> Path:
        return self._path.with_name(self._path.name + ".partial")

    @property
    def _partial_copy(self) -> PartialCopy:
        return PartialCopy(self._partial_path, self._num_bytes, self.manifest["fingerprint"])

    @property
    def _num_bytes(self) -> int:
        return int(self.manifest["num_bytes"])

    def _copy(self, source: RemoteFile) -> int:
        """Fill the partial file; returns the number of bytes that earlier processes had copied."""
        self._require_size(source)
        try:
            # Locked, so that two processes do not reserve the same free bytes.
            with locked(self.cache.path / "eviction.lock"):
                self._remove_all_but_the_partial_copy()
                free_space(self.cache, self.entry, self._num_bytes, self.report)
                allocate(self._partial_copy)
            num_kept = fetch(source, self._partial_copy, self.report)
            # The check of the partial file reads its manifest here.
            write_atomically(manifest_path(self._partial_path), json.dumps(self.manifest))
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            self.entry.remove()
            raise no_space_error(self.cache, self.entry, self._num_bytes) from error
        self._require_unchanged(source)
        return num_kept

    def _require_size(self, source: RemoteFile) -> None:
        num_bytes = source.num_bytes()
        if num_bytes != self._num_bytes:
            raise StagingError(
                f"{self.location} has {num_bytes} bytes, but its manifest says {self._num_bytes}; "
                "upload the file and its manifest again"
            )

    def _remove_all_but_the_partial_copy(self) -> None:
        """Remove what a copy from another location left, or somebody else put there."""
        folder, kept = self.entry.folder, (self._partial_path, chunk_log_path(self._partial_path))
        if not is_real_folder(folder):
            remove_tree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path not in kept:
                remove_tree(path)

    def _require_unchanged(self, source: RemoteFile) -> None:
        fingerprint = read_manifest_at(self.location)["fingerprint"]
        if fingerprint != self.manifest["fingerprint"] or source.num_bytes() != self._num_bytes:
            self.entry.remove()
            raise StagingError(
                f"{self.location} changed while it was copied; start again when nobody writes to it"
            )

    def _fault(self) -> ValueError | None:
        """The fault of the partial file, which is then removed; None if the file is intact."""
        try:
            verify.check_quickly(self._partial_path)
            verify.check_samples(self._partial_path, len(os.sched_getaffinity(0)))
        except ValueError as error:
            self.entry.remove()
            return error
        return None

    def _rename(self) -> None:
        manifest_path(self._partial_path).replace(manifest_path(self._path))
        self._partial_path.replace(self._path)
        chunk_log_path(self._partial_path).unlink(missing_ok=True)
        sync_to_disk(self.entry.folder)
