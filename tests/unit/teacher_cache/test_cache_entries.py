"""Entries of the cache: what their key depends on, who may remove them, and when they are full."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from service.teacher_cache.entry import CacheEntry, NoRoomError
from service.teacher_cache.key import digest_of
from service.teacher_cache.spot_checks import is_spot_check

ROW_BYTES, NUM_PLACES = 100, 50
FILE_BYTES = ROW_BYTES * NUM_PLACES


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"size": 17},
        {"fingerprint": "g"},
        {"execution": {"precision": "bfloat16"}},
        {"augmentation": {"padding": 2}},
        {"augmentation": {"mixing": {"mixup_alpha": 0.2}}},
        {"dataset": {"held_out": {"num_images": 40}}},
        {"dataset": {"normalization": {"mean": [0.5, 0.5, 0.5]}}},
        {"teacher": {"normalization": {"mean": [0.5, 0.5, 0.5]}}},
        {"teacher": {"size": 24}},
        {"teacher": {"cache": {"keep": {"top_k": 2}}}},
        {"evaluation": {"crop_size": 15}},
        {"losses": {"crld": {}}, "augmentation": {"strong": {}}},
    ],
    ids=str,
)
def test_what_changes_a_logit_changes_the_key(make_key, change):
    assert digest_of(make_key(**change)) != digest_of(make_key())


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"losses": {"kd": {}}},
        {"losses": {"ce": {"views": "both"}, "kd": {}}, "augmentation": {"strong": {}}},
        {"optimizer": {"learning_rate": 1.0}},
        {"schedule": {"num_epochs": 9, "milestones": []}},
        {"training": {"global_batch_size": 32}},
        {"student": {"model": "cifar:resnet8"}},
        {"teacher": {"min_top1": 0.1}},
        {"teacher": {"cache": {"path": "elsewhere", "limit_bytes": 10**9, "max_error": 0.1}}},
        {"teacher": {"cache": {"epochs": 1}}},
    ],
    ids=str,
)
def test_other_settings_share_what_is_stored(make_key, change):
    assert digest_of(make_key(**change)) == digest_of(make_key())


def test_the_global_batch_is_part_of_the_key_where_samples_repeat_within_it(make_key):
    repeated = {"augmentation": {"repeats": 2}}
    keys = [make_key(**repeated, training={"global_batch_size": size}) for size in (32, 64)]
    assert len(set(map(digest_of, [*keys, make_key()]))) == 3


def test_other_weights_of_a_teacher_have_another_key(make_key, teacher):
    before = digest_of(make_key())
    path = Path(teacher["weights"]["source"])
    other = path.rename(path.with_name("other.safetensors"))
    moved = {"weights": {"source": str(other)}}
    assert digest_of(make_key(teacher=moved)) == before
    with other.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\1\2\3\4")
    assert digest_of(make_key(teacher=moved)) != before


def fill(entry, epoch):
    file = entry.epoch_file(epoch, NUM_PLACES, ROW_BYTES)
    file.write(0, np.ones((NUM_PLACES, ROW_BYTES), np.uint8))
    file.close()


def is_stored(entry, epoch):
    file = entry.epoch_file(epoch, NUM_PLACES, ROW_BYTES)
    found = file.read(0, np.empty((NUM_PLACES, ROW_BYTES), np.uint8))
    file.close()
    return found


def names(folder):
    return sorted(path.parent.name for path in folder.glob("*/epoch-*"))


def test_a_full_cache_evicts_what_was_least_recently_used_and_nothing_in_use(tmp_path):
    limit = 3 * FILE_BYTES + 1000
    keys = [{"number": number} for number in range(4)]
    for age, key in zip((300, 100, 200), keys, strict=False):
        entry = CacheEntry(tmp_path, key, limit)
        fill(entry, 0)
        entry.close()
        used_s = 1e9 - age
        os.utime(tmp_path / digest_of(key), (used_s, used_s))
    in_use = CacheEntry(tmp_path, keys[0], limit)
    new = CacheEntry(tmp_path, keys[3], limit)
    fill(new, 0)
    # Of those that nobody uses, 2 was used before 1.
    assert names(tmp_path) == sorted(digest_of(keys[number]) for number in (0, 1, 3))
    assert is_stored(in_use, 0)
    fill(new, 1)
    assert names(tmp_path) == sorted(digest_of(keys[number]) for number in (0, 3, 3))
    with pytest.raises(NoRoomError, match="limit leaves no room for 5,000 bytes"):
        new.epoch_file(2, NUM_PLACES, ROW_BYTES)
    assert is_stored(in_use, 0)
    assert is_stored(new, 0)
    for entry in (in_use, new):
        entry.close()


def test_files_beside_a_key_that_is_damaged_or_absent_are_not_used(tmp_path):
    key = {"number": 1}
    for content in ("{", json.dumps({"number": 2}), None):
        entry = CacheEntry(tmp_path, key, None)
        fill(entry, 0)
        assert is_stored(entry, 0)
        entry.close()
        path = tmp_path / digest_of(key) / "key.json"
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        entry = CacheEntry(tmp_path, key, None)
        assert not is_stored(entry, 0)
        assert json.loads(path.read_text()) == key
        entry.close()


def test_links_that_others_have_planted_are_not_followed(tmp_path):
    key, outside = {"number": 1}, tmp_path / "outside"
    outside.mkdir()
    (outside / "key.json").write_text(json.dumps(key))
    cache_path = tmp_path / "cache"
    cache_path.mkdir()
    (cache_path / digest_of(key)).symlink_to(outside)
    entry = CacheEntry(cache_path, key, None)
    fill(entry, 0)
    assert [path.name for path in outside.iterdir()] == ["key.json"]
    (cache_path / digest_of(key) / "epoch-0001.logits").symlink_to(outside / "key.json")
    with pytest.raises(OSError, match="symbolic link"):
        entry.epoch_file(1, NUM_PLACES, ROW_BYTES)
    assert json.loads((outside / "key.json").read_text()) == key
    entry.close()


def test_one_step_in_a_thousand_and_at_least_one_of_an_epoch_is_checked():
    for num_steps in (1, 4, 98):
        for epoch in range(20):
            assert any(is_spot_check(3, epoch, step, num_steps) for step in range(num_steps))
    num_checked = sum(is_spot_check(3, 0, step, 20_000) for step in range(20_000))
    # 21 expected, with a standard deviation of 4.5.
    assert 5 < num_checked < 40


def test_a_limit_of_the_bytes_of_the_logits_has_room_for_them(tmp_path):
    entry = CacheEntry(tmp_path, {"number": 1}, 2 * FILE_BYTES)
    for epoch in (0, 1):
        fill(entry, epoch)
    with pytest.raises(NoRoomError):
        entry.epoch_file(2, NUM_PLACES, ROW_BYTES)
    assert is_stored(entry, 1)
    entry.close()


def test_a_read_only_copy_without_leases_is_read(tmp_path, monkeypatch):
    key = {"number": 1}
    entry = CacheEntry(tmp_path, key, None)
    fill(entry, 0)
    entry.close()
    for path in tmp_path.glob("*.lease"):
        path.unlink()
    # Root may write anywhere; os.access is what says that a folder is read-only.
    monkeypatch.setattr("service.teacher_cache.entry.os.access", lambda path, mode: False)
    entry = CacheEntry(tmp_path, key, None)
    assert is_stored(entry, 0)
    assert not list(tmp_path.glob("*.lease"))
    entry.close()
