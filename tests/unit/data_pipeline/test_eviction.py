"""Space in the cache: which datasets are evicted or kept, and errors of a full disk."""

import os

import pytest
from support.staging_helpers import (
    NUM_BYTES,
    DiskUsage,
    kill_while_copying,
    make_dataset,
    num_fetched_bytes,
    put,
    quiet,
)

from data_pipeline import shared_folders
from data_pipeline.staging import Cache, StagingError, fetch, stage


def stage_in_order(share, cache, count, num_bytes=NUM_BYTES):
    """Stage datasets 0 to count - 1, used at seconds 1000, 1001 ...; returns their paths."""
    paths = []
    for index in range(count):
        location, _ = make_dataset(share / str(index), f"set{index}", index, num_bytes)
        paths.append(put(location, cache))
        os.utime(paths[-1].parent, (1000 + index, 1000 + index))
    return paths


def test_least_recently_used_is_evicted_first(share, cache, log_path):
    cache = Cache(cache.path, 3 * NUM_BYTES + 10_000)
    paths = stage_in_order(share, cache, 3)
    put(str(share / "0" / "set0.beton"), cache)  # used again, so the second is the oldest
    location, _ = make_dataset(share / "new", "new", seed=9)
    messages = []
    stage(location, cache, report=messages.append).close()
    assert [path.exists() for path in paths] == [True, False, True]
    assert any("evicting set1.beton" in message for message in messages)


def test_partial_copies_are_evicted_before_complete_datasets(share, cache, log_path, tmp_path):
    killed, _ = make_dataset(share / "killed", "killed", seed=8)
    kill_while_copying(killed, cache.path, tmp_path / "first")
    (partial,) = cache.path.glob("*/killed.beton.partial")
    paths = stage_in_order(share, cache, 1)
    location, content = make_dataset(share / "new", "new", seed=9)
    assert put(location, Cache(cache.path, 2 * NUM_BYTES + 10_000)).read_bytes() == content
    assert paths[0].exists()
    assert not partial.exists()


def test_lease_protects_until_it_is_closed(share, cache, log_path):
    location, _ = make_dataset(share / "0", "set0", 0)
    cache = Cache(cache.path, NUM_BYTES + 10_000)
    new, content = make_dataset(share / "new", "new", seed=9)
    with stage(location, cache, report=quiet) as staged:
        with pytest.raises(StagingError, match=r"no space.*1\.05 MB.*limit is 1\.06 MB.*; raise"):
            put(new, cache)
        assert staged.path.exists()
    assert put(new, cache).read_bytes() == content
    assert not staged.path.exists()


def test_nothing_is_evicted_for_a_dataset_that_cannot_fit(share, cache, log_path):
    paths = stage_in_order(share, Cache(cache.path, 3 * NUM_BYTES), 2)
    location, _ = make_dataset(share / "new", "new", 9, 4 * NUM_BYTES)
    with pytest.raises(StagingError, match="no space"):
        put(location, Cache(cache.path, 3 * NUM_BYTES))
    assert all(path.exists() for path in paths)


def test_other_folders_in_the_cache_path_are_kept(share, cache, log_path):
    foreign = cache.path / "photographs" / "train.beton"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(bytes(NUM_BYTES))
    paths = stage_in_order(share, Cache(cache.path, NUM_BYTES + 10_000), 2)
    assert [path.exists() for path in (*paths, foreign)] == [False, True, True]


@pytest.mark.parametrize(("free_bytes", "fits"), [(NUM_BYTES + 40_000, True), (NUM_BYTES, False)])
def test_free_space_with_a_margin_is_required(
    share, cache, log_path, monkeypatch, free_bytes, fits
):
    location, content = make_dataset(share)
    usage = DiskUsage(4_000_000, 0, free_bytes)  # 1 % of it is 40,000 bytes
    monkeypatch.setattr(shared_folders.shutil, "disk_usage", lambda path: usage)
    if fits:
        assert put(location, cache).read_bytes() == content
        return
    with pytest.raises(StagingError, match=r"1\.05 MB.*1\.05 MB free.*limit is none.*; .*disk"):
        put(location, cache)
    assert num_fetched_bytes(log_path) == 0


@pytest.mark.parametrize("small_disk", ["4m"], indirect=True)
@pytest.mark.parametrize("found", ["before", "when allocating", "when writing"])
def test_full_disk_is_an_error_and_leaves_no_files(share, small_disk, log_path, monkeypatch, found):
    location, _ = make_dataset(share, num_bytes=8 << 20)
    if found != "before":
        usage = DiskUsage(1 << 40, 0, 1 << 40)  # as if the space were used after the check
        monkeypatch.setattr(shared_folders.shutil, "disk_usage", lambda path: usage)
    if found == "when writing":
        monkeypatch.setattr(fetch.os, "posix_fallocate", lambda fd, start, size: None)
    with pytest.raises(StagingError, match=r"no space for a dataset of 8\.39 MB.*; .*larger disk"):
        put(location, Cache(small_disk))
    statistics = os.statvfs(small_disk)
    assert statistics.f_bfree > 0.99 * statistics.f_blocks
    assert (num_fetched_bytes(log_path) > 0) == (found == "when writing")


@pytest.mark.parametrize("small_disk", ["4m"], indirect=True)
def test_datasets_are_evicted_when_the_disk_is_full(share, small_disk, log_path):
    cache = Cache(small_disk)
    paths = stage_in_order(share, cache, 3, num_bytes=3 << 19)
    assert [path.exists() for path in paths] == [False, True, True]
