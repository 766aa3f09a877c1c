"""Files are written completely or not at all, and storage that fails is retried."""

import errno
import hashlib
import os

import pytest

from data_pipeline import files
from data_pipeline.files import atomic_path, is_remote, retry_io, sha256_of, write_atomically


def fail(*_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_text_is_written_as_utf8_and_nothing_else_is_left(tmp_path):
    write_atomically(tmp_path / "file", "né")

    assert (tmp_path / "file").read_bytes() == b"n\xc3\xa9"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize("step", ["sync_to_disk", "write"])
def test_write_that_fails_keeps_the_old_content(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    write_atomically(path, "old")
    if step == "sync_to_disk":
        monkeypatch.setattr(files, "sync_to_disk", fail)
    else:
        monkeypatch.setattr(files, "open_regular", fail)

    with pytest.raises(OSError, match="Input/output error"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced = []

    def sync_and_look(path):
        synced.append((path.read_text(), (tmp_path / "file").exists()))

    monkeypatch.setattr(files, "sync_to_disk", sync_and_look)
    write_atomically(tmp_path / "file", "content")

    assert synced == [("content", False)]


def test_writer_that_takes_a_path_and_raises_leaves_nothing(tmp_path):
    def write_half():
        with atomic_path(tmp_path / "file") as path:
            path.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("num_failures", "raises"), [(0, False), (2, False), (3, True)])
def test_storage_is_retried_once_after_each_pause(monkeypatch, num_failures, raises):
    pauses, outcomes = [], iter([OSError("fails")] * num_failures + ["read"])
    monkeypatch.setattr(files.time, "sleep", pauses.append)

    def action():
        outcome = next(outcomes)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    if raises:
        with pytest.raises(OSError, match="fails"):
            retry_io(action, (1.0, 5.0))
    else:
        assert retry_io(action, (1.0, 5.0)) == "read"
    assert pauses == [1.0, 5.0][:num_failures]


def test_digest_is_that_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"content")

    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()


@pytest.mark.parametrize(
    ("location", "expected"),
    [("s3://b/k", True), ("gs://b/k", True), ("/data/s3://b", False), ("data", False)],
)
def test_locations_in_object_stores(location, expected):
    assert is_remote(location) is expected
