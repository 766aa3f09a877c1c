"""An entry of the cache under a key is the dataset of that key, or is replaced."""

import json
import os
import shutil
from pathlib import Path

import pytest
from support.staging_helpers import (
    CHUNK_BYTES,
    NUM_BYTES,
    kill_while_copying,
    make_dataset,
    num_fetched_bytes,
    put,
)

from data_pipeline.staging import Cache, StagingError, read_manifest_at, stage
from data_pipeline.staging.fetch import chunk_log_path


@pytest.fixture
def wanted(share):
    return make_dataset(share / "wanted", seed=1)


def entry_of(cache, location):
    """Folder of the dataset at a location, which need not be in the cache."""
    cache.path.mkdir(exist_ok=True)
    return cache.entry(read_manifest_at(location)["fingerprint"]).folder


def put_other_dataset(folder, share, name="train"):
    other, content = make_dataset(share / "other", name, seed=2)
    shutil.copytree(Path(other).parent, folder)
    return content


def test_complete_entry_of_another_dataset_is_not_used(share, cache, log_path, wanted):
    location, content = wanted
    put_other_dataset(entry_of(cache, location), share)
    assert put(location, cache).read_bytes() == content


def test_entry_that_shares_only_the_key_is_replaced_and_named(share, cache, log_path, wanted):
    location, content = wanted
    path = put(location, cache)
    manifest_path = Path(f"{path}.json")
    manifest = json.loads(manifest_path.read_text())
    colliding = manifest["fingerprint"][:32] + "0" * 32
    manifest_path.write_text(json.dumps(manifest | {"fingerprint": colliding}))
    messages = []
    with stage(location, cache, report=messages.append) as staged:
        assert staged.path.read_bytes() == content
    assert any(f"{path} is of another dataset" in message for message in messages)
    assert num_fetched_bytes(log_path) == 2 * NUM_BYTES


def test_entry_gets_the_description_of_its_source(cache, log_path, wanted):
    location, _ = wanted
    path = put(location, cache)
    manifest = json.loads(Path(f"{location}.json").read_text()) | {"classes": ["a", "b"]}
    Path(f"{path}.json").write_text(json.dumps(manifest | {"classes": ["b", "a"]}))
    Path(f"{location}.json").write_text(json.dumps(manifest))
    assert put(location, cache) == path
    assert json.loads(Path(f"{path}.json").read_text()) == manifest
    assert num_fetched_bytes(log_path) == NUM_BYTES


def test_partial_copy_of_another_dataset_is_not_resumed(share, cache, log_path, tmp_path, wanted):
    location, content = wanted
    other, _ = make_dataset(share / "other", seed=2)
    kill_while_copying(other, cache.path, tmp_path / "first")
    entry_of(cache, other).rename(entry_of(cache, location))
    messages = []
    with stage(location, cache, report=messages.append) as staged:
        assert staged.path.read_bytes() == content
    assert num_fetched_bytes(log_path) == NUM_BYTES
    assert not any("resuming" in message for message in messages)


def test_entry_under_another_key_is_evicted_before_datasets(share, cache, log_path):
    used, _ = make_dataset(share / "used", "used", seed=3)
    path = put(used, cache)
    os.utime(path.parent, (1000, 1000))
    foreign = cache.path / ("0" * 32)
    put_other_dataset(foreign, share)
    new, _ = make_dataset(share / "new", "new", seed=4)
    put(new, Cache(cache.path, 2 * NUM_BYTES + 10_000))
    assert path.exists()
    assert not foreign.exists()


MANIFESTS = [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"fingerprint": 1}']


@pytest.mark.parametrize("damage", MANIFESTS, ids=lambda text: repr(text[:20]))
def test_damaged_manifest_of_an_entry_is_replaced(share, cache, log_path, wanted, damage):
    location, content = wanted
    path = put(location, cache)
    Path(f"{path}.json").write_bytes(damage)
    assert put(location, cache).read_bytes() == content


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
@pytest.mark.parametrize("suffix", ["", ".json", ".partial", ".partial.chunks", ".partial.json"])
def test_what_is_no_file_is_replaced(cache, log_path, tmp_path, wanted, suffix, kind):
    location, content = wanted
    folder, victim = entry_of(cache, location), tmp_path / "victim"
    victim.write_bytes(b"kept")
    folder.mkdir()
    if not suffix.startswith(".partial"):
        put(location, cache)
    place(folder / f"train.beton{suffix}", kind, victim)
    assert put(location, cache).read_bytes() == content
    assert victim.read_bytes() == b"kept"
    assert sorted(path.name for path in folder.iterdir()) == ["train.beton", "train.beton.json"]


def place(path, kind, victim):
    """Put something that is no regular file at a path."""
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(victim)
    else:
        path.mkdir()


def test_entry_that_is_a_link_is_replaced_and_never_evicted(share, cache, log_path, tmp_path):
    location, content = make_dataset(share)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "train.beton").write_bytes(bytes(NUM_BYTES))
    linked = entry_of(cache, location)
    linked.symlink_to(victim)
    other, _ = make_dataset(share / "other", seed=2)
    put(other, Cache(cache.path, NUM_BYTES + 10_000))
    assert put(location, cache).read_bytes() == content
    assert not linked.is_symlink()
    assert (victim / "train.beton").read_bytes() == bytes(NUM_BYTES)


@pytest.mark.parametrize("kind", ["fifo", "link"])
@pytest.mark.parametrize("name", ["{key}.lock", "{key}.lease", "eviction.lock"])
def test_lock_that_is_no_file_is_refused_by_name(cache, log_path, tmp_path, wanted, name, kind):
    location, _ = wanted
    lock = name.format(key=entry_of(cache, location).name)
    place(cache.path / lock, kind, tmp_path / "victim")
    with pytest.raises(StagingError, match=f"cannot be used as a cache.*{lock} is a (FIFO|sym)"):
        put(location, cache)
    assert not (tmp_path / "victim").exists()


def test_lock_of_another_entry_that_is_no_file_hinders_nobody(share, cache, log_path, wanted):
    foreign = cache.path / ("0" * 32)
    foreign.mkdir(parents=True)
    os.mkfifo(cache.path / f"{foreign.name}.lease")
    location, content = wanted
    assert put(location, Cache(cache.path, 2 * NUM_BYTES)).read_bytes() == content


@pytest.mark.parametrize("line", [b"9" * 5000, "\u00b2".encode(), b"\xff", b"-1", b"99"])
def test_strange_lines_of_a_chunk_log_are_ignored(cache, log_path, tmp_path, wanted, line):
    location, content = wanted
    kill_while_copying_once(cache, location)
    log = chunk_log_path(entry_of(cache, location) / "train.beton.partial")
    log.write_bytes(log.read_bytes() + line + b"\n")
    assert put(location, cache).read_bytes() == content
    assert num_fetched_bytes(log_path) == NUM_BYTES - CHUNK_BYTES


def kill_while_copying_once(cache, location):
    """The state after a copy that was killed when its first chunk was on disk."""
    partial = entry_of(cache, location) / "train.beton.partial"
    partial.parent.mkdir()
    content = Path(location).read_bytes()
    partial.write_bytes(content[:CHUNK_BYTES] + bytes(NUM_BYTES - CHUNK_BYTES))
    fingerprint = read_manifest_at(location)["fingerprint"]
    chunk_log_path(partial).write_text(f"{fingerprint} {NUM_BYTES} {CHUNK_BYTES}\n0\n")
