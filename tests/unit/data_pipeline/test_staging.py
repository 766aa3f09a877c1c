"""Staging from a folder that represents a shared mount: single copies, resuming and errors."""

import collections
import errno
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from support.staging_helpers import (
    CHUNK_BYTES,
    NUM_BYTES,
    DiskUsage,
    check_digest,
    kill_while_copying,
    make_dataset,
    num_fetched_bytes,
    put,
    quiet,
    start_worker,
)

from data_pipeline import shared_folders
from data_pipeline.beton import BetonError, open_beton
from data_pipeline.manifest import FORMAT, read_manifest, write_manifest
from data_pipeline.staging import Cache, StagingError, fetch, read_manifest_at, stage
from data_pipeline.staging.remote import RemoteFile, remote_file


def partials(cache):
    return list(cache.path.glob("*/*.partial*"))


def test_staged_file_equals_the_source_and_is_fetched_once(share, cache, log_path):
    location, content = make_dataset(share)
    path = put(location, cache)
    assert path.read_bytes() == content
    fingerprint = json.loads(Path(location + ".json").read_text())["fingerprint"]
    assert path == cache.path / fingerprint[:32] / "train.beton"
    assert json.loads(Path(f"{path}.json").read_text())["num_bytes"] == NUM_BYTES
    assert put(location, cache) == path
    assert num_fetched_bytes(log_path) == NUM_BYTES
    assert partials(cache) == []


def test_equal_names_do_not_collide_and_equal_content_is_shared(share, cache, log_path):
    first, first_content = make_dataset(share / "a", seed=1)
    second, second_content = make_dataset(share / "b", seed=2)
    copy, _ = make_dataset(share / "c", name="other", seed=1)
    first_path, second_path = put(first, cache), put(second, cache)
    assert first_path.read_bytes() == first_content
    assert second_path.read_bytes() == second_content
    assert put(copy, cache) == first_path
    assert num_fetched_bytes(log_path) == 2 * NUM_BYTES


def test_killed_copy_resumes_with_the_missing_chunks_only(
    share, cache, log_path, tmp_path, monkeypatch
):
    location, content = make_dataset(share)
    num_logged = kill_while_copying(location, cache.path, tmp_path / "first")
    assert 5 <= num_logged < 16
    # The partial file is already allocated: only the margin must be free.
    usage = DiskUsage(4_000_000, 0, 50_000)
    monkeypatch.setattr(shared_folders.shutil, "disk_usage", lambda path: usage)
    messages = []
    with stage(location, cache, report=messages.append) as staged:
        assert staged.path.read_bytes() == content
    assert num_fetched_bytes(log_path) == NUM_BYTES - num_logged * CHUNK_BYTES
    assert any("resuming" in message for message in messages)


def test_incomplete_line_in_the_chunk_log_is_ignored(share, log_path, tmp_path):
    location, content = make_dataset(share)
    target = tmp_path / "target"
    copy = fetch.PartialCopy(target, NUM_BYTES, "0f")
    fetch.allocate(copy)
    with target.open("r+b") as file:
        file.write(content[:CHUNK_BYTES])
    chunk_log = fetch.chunk_log_path(target)
    # The state after a crash: chunk 0 is logged, and the next line is cut off after "1".
    chunk_log.write_text(f"0f {NUM_BYTES} {CHUNK_BYTES}\n0\n1")
    assert fetch.fetch(remote_file(location), copy, quiet) == CHUNK_BYTES
    assert target.read_bytes() == content
    assert sorted(int(line) for line in chunk_log.read_text().split()[3:]) == list(range(16))


def test_chunk_is_logged_only_after_it_is_on_disk(share, log_path, tmp_path, monkeypatch):
    location, _ = make_dataset(share)
    target = tmp_path / "target"
    copy = fetch.PartialCopy(target, NUM_BYTES, "0f")
    fetch.allocate(copy)

    def fail(descriptor):
        raise OSError(errno.EIO, "the disk fails")

    monkeypatch.setattr(fetch.os, "fdatasync", fail)
    with pytest.raises(OSError, match="the disk fails"):
        fetch.fetch(remote_file(location), copy, quiet)
    assert fetch.chunk_log_path(target).read_text() == f"0f {NUM_BYTES} {CHUNK_BYTES}\n"


def test_damaged_resumed_copy_is_copied_again_from_the_start(share, cache, log_path, tmp_path):
    location, content = make_dataset(share)
    num_logged = kill_while_copying(location, cache.path, tmp_path / "first")
    (partial,) = cache.path.glob("*/*.beton.partial")
    partial.write_bytes(bytes(NUM_BYTES))
    assert put(location, cache).read_bytes() == content
    assert num_fetched_bytes(log_path) == 2 * NUM_BYTES - num_logged * CHUNK_BYTES


def test_damaged_source_is_an_error_that_names_it(share, cache, log_path):
    location, content = make_dataset(share)
    Path(location).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(StagingError, match=r"share/train\.beton does not match its manifest.*; "):
        put(location, cache)
    assert num_fetched_bytes(log_path) == NUM_BYTES
    assert partials(cache) == []


def test_cached_file_with_a_flipped_byte_is_staged_again(share, cache, log_path):
    location, content = make_dataset(share)
    path = put(location, cache)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert put(location, cache).read_bytes() == content
    assert num_fetched_bytes(log_path) == 2 * NUM_BYTES


def test_four_processes_fetch_once(share, cache, tmp_path):
    location, content = make_dataset(share)
    log_path = tmp_path / "fetched"
    workers = [start_worker(location, cache.path, log_path, delay_s=0.05) for _ in range(4)]
    for worker in workers:
        worker.stdin.write("go\n")
    paths = {worker.communicate(timeout=30)[0].strip() for worker in workers}
    assert [worker.returncode for worker in workers] == [0] * 4
    (path,) = paths
    assert Path(path).read_bytes() == content
    assert num_fetched_bytes(log_path) == NUM_BYTES


def test_waiting_is_reported_once(share, cache, log_path):
    location, content = make_dataset(share)
    entry = cache.entry(read_manifest_at(location)["fingerprint"])
    cache.path.mkdir()
    messages, waits, staged = [], threading.Event(), []

    def report(text):
        messages.append(text)
        waits.set()

    thread = threading.Thread(target=lambda: staged.append(stage(location, cache, report=report)))
    with entry.staging(on_wait=pytest.fail):
        thread.start()
        assert waits.wait(10)
        assert staged == []
    thread.join(10)
    assert staged[0].path.read_bytes() == content
    assert sum("waiting" in message for message in messages) == 1
    staged[0].close()


@pytest.fixture
def fail_reads(log_path, monkeypatch):
    """A function that makes the first reads of every chunk fail; returns the reads per offset."""

    def fail(num_failures):
        num_reads, read_range = collections.Counter(), RemoteFile.read_range

        def read_or_fail(file, offset, num_bytes):
            num_reads[offset] += 1
            if num_reads[offset] <= num_failures:
                raise OSError("connection reset")
            return read_range(file, offset, num_bytes)

        monkeypatch.setattr(RemoteFile, "read_range", read_or_fail)
        return num_reads

    return fail


def test_transient_errors_are_retried(share, cache, fail_reads):
    location, content = make_dataset(share)
    num_reads = fail_reads(num_failures=2)
    assert put(location, cache).read_bytes() == content
    assert set(num_reads.values()) == {3}


def test_persistent_errors_stop_the_copy_after_three_attempts(share, cache, fail_reads):
    location, _ = make_dataset(share, num_bytes=1000)
    num_reads = fail_reads(num_failures=99)
    with pytest.raises(StagingError, match=r"train\.beton cannot be read.*connection reset.*; "):
        put(location, cache)
    assert num_reads == {0: 3}


@pytest.mark.parametrize("what", ["size", "fingerprint", "removed"])
def test_source_that_changes_is_an_error(share, cache, log_path, monkeypatch, what):
    location, _ = make_dataset(share)
    allocate = fetch.allocate

    def allocate_and_change(copy):
        allocate(copy)
        if what == "size":
            os.truncate(location, NUM_BYTES // 2)
        elif what == "fingerprint":
            manifest = {"fingerprint": "0" * 64, "num_bytes": NUM_BYTES}
            Path(location + ".json").write_text(json.dumps(manifest))
        else:
            Path(location).unlink()

    monkeypatch.setattr("data_pipeline.staging.dataset_copy.allocate", allocate_and_change)
    expected = "does not exist" if what == "removed" else "changed while it was copied"
    with pytest.raises(StagingError, match=rf"train\.beton {expected}.*; "):
        put(location, cache)
    assert list(cache.path.glob("*/*.beton")) == []


def test_manifest_without_its_data_is_an_error(share, cache, log_path):
    location, content = make_dataset(share)
    Path(location).write_bytes(content[:-1])
    with pytest.raises(StagingError, match=f"{NUM_BYTES - 1} bytes.*manifest says {NUM_BYTES}; "):
        put(location, cache)
    Path(location).unlink()
    with pytest.raises(StagingError, match=r"train\.beton does not exist; "):
        put(location, cache)


def test_unusable_cache_path_is_an_error(share, tmp_path, log_path):
    location, _ = make_dataset(share)
    (tmp_path / "file").touch()
    with pytest.raises(StagingError, match=r"file cannot be used as a cache.*; "):
        put(location, Cache(tmp_path / "file"))


@pytest.mark.parametrize("damaged", [False, True])
def test_real_dataset_is_checked_sample_by_sample(data_folder, share, cache, damaged):
    share.mkdir()
    content = bytearray((data_folder / "train.beton").read_bytes())
    path = share / "train.beton"
    path.write_bytes(content)
    file = open_beton(path)
    manifest = {
        "format": FORMAT,
        "fingerprint": file.fingerprint,
        "num_samples": file.num_samples,
        "num_bytes": len(content),
        "classes": list("abcd"),
        "num_per_class": np.bincount(file.labels).tolist(),
    }
    write_manifest(path, manifest)
    if not damaged:
        staged_path = put(str(path), cache)
        assert staged_path.read_bytes() == content
        assert read_manifest(staged_path) == manifest
        return
    content[int(file.samples["image"]["data_ptr"][77]) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(StagingError, match=r"share/train\.beton does not match.*sample 77 .*; "):
        put(str(path), cache)
    assert list(cache.path.glob("*/*")) == []


def test_check_digest_finds_a_flipped_bit(share):
    location, content = make_dataset(share)
    check_digest(Path(location))
    Path(location).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BetonError):
        check_digest(Path(location))
