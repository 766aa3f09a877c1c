"""One worker's access to a run's stored logits, epoch by epoch.

Where the storage fails, is full or read-only, training goes on with the teacher, and says so once.
"""

from collections.abc import Callable

from torch import Tensor

from service.spec.job import JobSpec
from service.spec.teacher_cache import Draw
from service.teacher_cache.entry import CacheEntry, NoRoomError
from service.teacher_cache.epoch_file import EpochFile
from service.teacher_cache.key import Key
from service.teacher_cache.threads import Arrival, RowReader, RowWriter


class LogitStore:
    """Rows of logits by epoch and place; close it at the end.

    Args:
        spec: of the run, with a teacher.cache.
        key_of: what the logits of images of a size in pixels depend on.
        num_places: images of an epoch.
        pin_memory: whether rows are read for copies to a GPU.
        report: called with a warning, in the thread that calls.
    """

    def __init__(
        self,
        spec: JobSpec,
        key_of: Callable[[int], Key],
        num_places: int,
        *,
        pin_memory: bool,
        report: Callable[[str], None],
    ):
        assert spec.teacher_cache is not None
        self._spec, self._key_of, self._num_places = spec, key_of, num_places
        self._limit_bytes = spec.teacher_cache.limit_bytes
        self.row_bytes = spec.teacher_cache.row_bytes(
            spec.dataset.num_classes, spec.num_teacher_views
        )
        """Bytes of a row."""
        self._report = report
        self._reader = RowReader(self.row_bytes, pin_memory=pin_memory)
        self._writer = RowWriter()
        self._entry: CacheEntry | None = None
        self._file: EpochFile | None = None
        self._opened: Draw | None = None
        self._is_distrusted = False
        self.trouble: str | None = None
        """Why not all that is computed is stored; None while all is well."""

    def open_epoch(self, epoch: int) -> None:
        """Read and write rows of this epoch of the run from now on."""
        wanted = self._spec.draw(epoch)
        if wanted == self._opened or self._is_distrusted:
            return
        self._close_file()
        try:
            if self._entry is None or self._opened is None or self._opened.size != wanted.size:
                self._close_entry()
                path, key = self._spec.teacher_cache_path, self._key_of(wanted.size)
                self._entry = CacheEntry(path, key, self._limit_bytes)
            self._file = self._entry.epoch_file(wanted.epoch, self._num_places, self.row_bytes)
        except NoRoomError as error:
            self._warn(f"{error.args[0]}; logits of more epochs are not stored")
        except OSError as error:
            self._warn(_text(error, self._spec))
        self._opened = wanted

    def read(self, first_place: int, count: int) -> Tensor | None:
        """Rows [count, row_bytes], uint8, in the host's memory; None if one of them is missing."""
        if self._file is None or count == 0:
            return None
        return self._reader.read(self._file, first_place, count)

    def read_ahead(self, first_place: int, count: int) -> None:
        """Start to read what will be asked for next."""
        if self._file is not None and count > 0:
            self._reader.read_ahead(self._file, first_place, count)

    def write(self, first_place: int, rows: Tensor, arrival: Arrival | None = None) -> None:
        """Store rows in the host's memory once they have arrived there; does not wait for it."""
        if self._file is not None and self._file.can_write:
            self._writer.write(self._file, first_place, rows, arrival)
        if self._writer.error is not None:
            self._warn(_text(self._writer.error, self._spec))

    def discard(self) -> None:
        """Remove what is stored for this key, which is wrong, and store nothing any more."""
        self._is_distrusted = True
        self._close_file()
        try:
            if self._entry is not None:
                self._entry.discard()
        except OSError as error:
            self._report(
                f"warning: teacher.cache: wrong logits cannot be removed ({error.strerror}); "
                "remove the folder, or other runs learn from them"
            )
        self._close_entry()

    def flush(self) -> None:
        """Wait until everything is written."""
        self._writer.flush()

    def close(self) -> None:
        """Write everything, end the threads and allow the eviction of the entry."""
        self._close_file()
        self._close_entry()
        self._reader.close()
        self._writer.close()

    def _close_file(self) -> None:
        self._reader.settle()
        self._writer.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _close_entry(self) -> None:
        if self._entry is not None:
            self._entry.close()
            self._entry = None

    def _warn(self, text: str) -> None:
        if self.trouble is None:
            self.trouble = text
            self._report(f"warning: teacher.cache: {text}; the teacher is run instead")


def _text(error: OSError, spec: JobSpec) -> str:
    return f"{error.filename or spec.teacher_cache_path}: {error.strerror or error}"
