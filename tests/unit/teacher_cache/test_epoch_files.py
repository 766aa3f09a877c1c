"""Rows on disk: what is read is what was written, or nothing."""

import fcntl
import os
import signal

import numpy as np
import pytest

from service.teacher_cache.epoch_file import EpochFile

ROW_BYTES = 24


@pytest.fixture
def path(tmp_path):
    """The path of an epoch's file with room for 100 rows."""
    path = tmp_path / "key" / "epoch-0000.logits"
    path.parent.mkdir()
    path.touch()
    os.truncate(path, 100 * ROW_BYTES)
    return path


def random_rows(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, ROW_BYTES)).astype(np.uint8)


def read(path, first, count):
    """The content of rows, without checksums; None if one is not valid."""
    rows = np.empty((count, ROW_BYTES), np.uint8)
    file = EpochFile(path, ROW_BYTES)
    is_valid = file.read(first, rows)
    file.close()
    return rows[:, 4:] if is_valid else None


def write(path, first, rows):
    file = EpochFile(path, ROW_BYTES)
    file.write(first, rows.copy())
    file.close()


def in_child(action):
    """Call ``action`` in another process and return how it ended."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def test_rows_are_read_as_they_were_written_and_others_are_absent(path):
    rows = random_rows(10)
    write(path, 20, rows)
    assert np.array_equal(read(path, 20, 10), rows[:, 4:])
    assert np.array_equal(read(path, 23, 4), rows[3:7, 4:])
    for first, count in ((19, 2), (29, 2), (0, 1), (95, 10)):
        assert read(path, first, count) is None


@pytest.mark.parametrize("byte", [0, 5, ROW_BYTES - 1])
def test_a_damaged_byte_costs_its_row_alone(path, byte):
    rows = random_rows(10)
    write(path, 0, rows)
    content = bytearray(path.read_bytes())
    content[4 * ROW_BYTES + byte] ^= 1
    path.write_bytes(content)
    assert read(path, 4, 1) is None
    assert np.array_equal(read(path, 0, 4), rows[:4, 4:])
    assert np.array_equal(read(path, 5, 5), rows[5:, 4:])
    # It is written again, and only then valid.
    write(path, 0, rows)
    assert np.array_equal(read(path, 0, 10), rows[:, 4:])


def test_rows_of_another_place_epoch_or_key_are_not_valid(path):
    write(path, 0, random_rows(10))
    content = path.read_bytes()
    path.write_bytes(content[ROW_BYTES:])
    assert read(path, 0, 1) is None
    for other in (path.with_name("epoch-0001.logits"), path.parent / ".." / path.name):
        other.write_bytes(content)
        assert read(other, 0, 1) is None


def test_a_writer_that_is_killed_loses_the_row_that_it_was_writing(path, monkeypatch):
    rows, pwrite = random_rows(10), os.pwrite

    def die_within_a_row(descriptor, content, start):
        pwrite(descriptor, content[: 6 * ROW_BYTES + 9], start)
        os.kill(os.getpid(), signal.SIGKILL)

    def killed():
        monkeypatch.setattr(os, "pwrite", die_within_a_row)
        write(path, 0, rows)

    assert in_child(killed) == signal.SIGKILL
    assert np.array_equal(read(path, 0, 6), rows[:6, 4:])
    assert read(path, 6, 1) is None
    write(path, 0, rows)
    assert np.array_equal(read(path, 0, 10), rows[:, 4:])


def test_what_another_process_writes_or_has_written_is_left_alone(path):
    first, second = random_rows(10), random_rows(10, seed=1)
    with path.open("r+b") as other:
        fcntl.lockf(other, fcntl.LOCK_EX, ROW_BYTES, 5 * ROW_BYTES)
        in_child(lambda: write(path, 0, second))
        assert read(path, 0, 1) is None
        # Another range of the same file is free.
        in_child(lambda: write(path, 20, second))
        assert read(path, 20, 10) is not None
    write(path, 0, first)
    in_child(lambda: write(path, 0, second))
    assert np.array_equal(read(path, 0, 10), first[:, 4:])


def test_two_processes_that_fill_a_file_at_once_leave_one_that_is_whole(path):
    rows = random_rows(100)
    order = np.random.default_rng(3).permutation(20)
    children = []
    for places in (order, order[::-1]):
        child = os.fork()
        if child == 0:
            for block in places.tolist():
                write(path, 5 * block, rows[5 * block : 5 * block + 5])
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert np.array_equal(read(path, 0, 100), rows[:, 4:])


def test_rows_of_a_file_that_was_removed_are_not_valid(path):
    write(path, 0, random_rows(10))
    file = EpochFile(path, ROW_BYTES)
    path.unlink()
    assert not file.read(0, np.empty((10, ROW_BYTES), np.uint8))
    file.close()
