"""Checkpoints are complete or absent, even if the disk fails."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from service.run.folder import FENCE_NAME, FencedError, FencingToken
from service.run.journal import Journal, read_events
from service.run.progress import Progress
from service.training import checkpoint
from service.training.checkpoint import (
    Snapshot,
    checkpoint_paths,
    is_intact,
    newest_checkpoint,
    quarantine_damaged,
    remove_leftovers,
)
from service.training.checkpoint_saver import CheckpointError, CheckpointSaver


def snapshot(step):
    weights = {"weight": torch.full((3, 4), float(step))}
    return Snapshot(weights, None, {"state": {}}, [{"statistics": []}], Progress(step=step))


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "logs.jsonl", 10**6)


@pytest.fixture
def saver(tmp_path, journal):
    token = FencingToken(tmp_path)
    return CheckpointSaver(tmp_path, "hash", 2, journal, token, pauses_s=(0.0, 0.0))


def others(run_path):
    """Names in the run's folder besides checkpoints, the journal and the fencing token."""
    known = {*checkpoint_paths(run_path), run_path / "logs.jsonl", run_path / FENCE_NAME}
    return sorted(path.name for path in run_path.iterdir() if path not in known)


def save_all(saver, *steps):
    for step in steps:
        saver.save(snapshot(step))
    saver.wait()


def test_the_newest_checkpoints_are_kept(saver, tmp_path):
    save_all(saver, 1, 2, 3, 4)
    names = [path.name for path in checkpoint_paths(tmp_path)]
    assert names == ["checkpoint_0000000004", "checkpoint_0000000003"]
    assert all(is_intact(path) for path in checkpoint_paths(tmp_path))
    assert others(tmp_path) == []
    events = read_events(tmp_path / "logs.jsonl")
    assert [(event.kind, event.step) for event in events] == [
        ("checkpoint", n) for n in range(1, 5)
    ]


def test_evaluated_checkpoint_is_newer_than_the_unevaluated_one(saver, tmp_path):
    saver.save(snapshot(4)._replace(is_evaluated=False))
    saver.wait()
    assert newest_checkpoint(tmp_path).name == "checkpoint_0000000004-unevaluated"
    save_all(saver, 4)
    assert newest_checkpoint(tmp_path).name == "checkpoint_0000000004"
    save_all(saver, 5, 6)
    assert len(checkpoint_paths(tmp_path)) == 2


def test_replaced_worker_writes_nothing_more(saver, journal, tmp_path):
    save_all(saver, 1)
    stale = Journal(tmp_path / "logs.jsonl", 10**6, FencingToken(tmp_path))
    FencingToken(tmp_path)
    saver.save(snapshot(2))
    with pytest.raises(FencedError):
        saver.wait()
    with pytest.raises(FencedError):
        stale.append("interval", 9, 0, {})
    assert newest_checkpoint(tmp_path).name == "checkpoint_0000000001"
    assert [event.step for event in read_events(tmp_path / "logs.jsonl")] == [1]


def change_metadata(path, **fields):
    metadata = json.loads((path / "metadata.json").read_text())
    (path / "metadata.json").write_text(json.dumps(metadata | fields))


def digests_of(path):
    return json.loads((path / "metadata.json").read_text())["sha256"]


@pytest.mark.parametrize(
    "fields",
    [
        {"sha256": {}},
        {"sha256": []},
        {"sha256": {"student.safetensors": 5}},
        {"sha256": {"../../../../../dev/zero": "0" * 64}},
        {"format": 1},
        {"format": "2"},
        {"progress": None},
        {"progress": {"step": "2"}},
        {"progress": {"steps": 2}},
        {"progress": {"step": 2, "step_in_epoch": -1}},
        {"progress": {"step": 2, "best_epoch": -1}},
        {"progress": {"step": 2, "last_top1": 1.5}},
        {"spec_hash": None},
        {"more": 1},
    ],
)
def test_checkpoint_with_other_metadata_is_not_intact(saver, tmp_path, fields):
    save_all(saver, 1, 2)
    change_metadata(newest_checkpoint(tmp_path), **fields)
    assert newest_checkpoint(tmp_path).name == "checkpoint_0000000001"


@pytest.mark.parametrize("name", ["student.safetensors", "optimizer.pt", "per_rank_state.pt"])
def test_checkpoint_without_the_digest_of_a_required_file_is_not_intact(saver, tmp_path, name):
    save_all(saver, 1, 2)
    path = newest_checkpoint(tmp_path)
    change_metadata(path, sha256={key: d for key, d in digests_of(path).items() if key != name})
    (path / name).unlink()
    assert newest_checkpoint(tmp_path).name == "checkpoint_0000000001"


def test_ema_without_a_digest_is_not_used(saver, tmp_path):
    save_all(saver, 1, 2)
    path = newest_checkpoint(tmp_path)
    shutil.copy(path / "student.safetensors", path / "ema.safetensors")
    assert not is_intact(path)
    change_metadata(path, sha256={**digests_of(path), "ema.safetensors": "0" * 64})
    assert not is_intact(path)
    digest = digests_of(path)["student.safetensors"]
    change_metadata(path, sha256={**digests_of(path), "ema.safetensors": digest})
    assert is_intact(path)


def test_checkpoint_of_links_and_fifos_is_not_intact(saver, tmp_path):
    save_all(saver, 1, 2, 3)
    newest, before = checkpoint_paths(tmp_path)
    (newest / "optimizer.pt").rename(tmp_path / "optimizer.pt")
    (newest / "optimizer.pt").symlink_to(tmp_path / "optimizer.pt")
    assert not is_intact(newest)
    (newest / "optimizer.pt").unlink()
    os.mkfifo(newest / "optimizer.pt")
    assert not is_intact(newest)
    link = tmp_path / "checkpoint_0000000009"
    link.symlink_to(before)
    assert newest_checkpoint(tmp_path) == before
    assert len(quarantine_damaged(tmp_path)) == 2
    assert newest_checkpoint(tmp_path) == before


def test_read_error_is_not_treated_as_damage(saver, tmp_path, monkeypatch):
    save_all(saver, 1, 2)

    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoint, "sha256_of", fail)
    with pytest.raises(OSError, match="Input/output error"):
        quarantine_damaged(tmp_path)
    assert len(checkpoint_paths(tmp_path)) == 2


def test_leftovers_of_a_killed_save_are_removed(saver, tmp_path):
    save_all(saver, 1)
    (tmp_path / ".checkpoint_0000000002.partial").mkdir()
    remove_leftovers(tmp_path)
    assert others(tmp_path) == []
    assert newest_checkpoint(tmp_path) is not None


def fail_saves(monkeypatch, num_failures):
    """Make the first ``num_failures`` saves fail with a full disk."""
    failures = iter([True] * num_failures)
    save_weights = checkpoint.save_weights

    def save_or_fail(*arguments):
        save_weights(*arguments)
        if next(failures, False):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_weights", save_or_fail)


def test_save_is_retried_while_the_disk_is_full(saver, tmp_path, monkeypatch):
    fail_saves(monkeypatch, 2)
    save_all(saver, 5)
    assert newest_checkpoint(tmp_path).name == "checkpoint_0000000005"


def test_disk_that_stays_full_is_an_error_and_leaves_no_partial_files(saver, tmp_path, monkeypatch):
    save_all(saver, 5)
    fail_saves(monkeypatch, 3)
    saver.save(snapshot(6))
    with pytest.raises(CheckpointError, match=r"No space left on device.*submit the same spec"):
        saver.wait()
    assert [path.name for path in checkpoint_paths(tmp_path)] == ["checkpoint_0000000005"]
    assert others(tmp_path) == []
    save_all(saver, 7)
    assert newest_checkpoint(tmp_path).name == "checkpoint_0000000007"


@pytest.mark.parametrize("name", ["student.safetensors", "optimizer.pt", "per_rank_state.pt"])
def test_checkpoint_with_a_flipped_byte_is_renamed(saver, tmp_path, name):
    save_all(saver, 8, 9)
    with (tmp_path / "checkpoint_0000000009" / name).open("r+b") as file:
        file.seek(60)
        byte = file.read(1)[0]
        file.seek(60)
        file.write(bytes([byte ^ 1]))
    assert newest_checkpoint(tmp_path).name == "checkpoint_0000000008"
    assert quarantine_damaged(tmp_path) == [
        "checkpoint_0000000009 is damaged and was renamed to damaged_checkpoint_0000000009"
    ]
    assert [path.name for path in checkpoint_paths(tmp_path)] == ["checkpoint_0000000008"]


def test_damage_below_an_intact_checkpoint_is_left_alone(saver, tmp_path):
    save_all(saver, 8, 9)
    (tmp_path / "checkpoint_0000000008" / "optimizer.pt").unlink()
    assert quarantine_damaged(tmp_path) == []
    assert len(checkpoint_paths(tmp_path)) == 2


SAVE_UNTIL_KILLED = """
import sys
from pathlib import Path
import torch
from service.run.progress import Progress
from service.training.checkpoint import Snapshot, save_checkpoint, checkpoint_name
weights = {"weight": torch.zeros(2000, 1000)}
print("ready", flush=True)
for step in range(10**6):
    snapshot = Snapshot(weights, None, {"state": {}}, [{}], Progress(step=step))
    save_checkpoint(Path(sys.argv[1]) / checkpoint_name(step), "hash", snapshot)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.05, 0.2, 0.37])
def test_process_killed_while_it_saves_leaves_only_intact_checkpoints(tmp_path, delay_s):
    command = [sys.executable, "-c", SAVE_UNTIL_KILLED, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert all(is_intact(path) for path in checkpoint_paths(tmp_path))
    assert all(name.startswith(".checkpoint_") for name in others(tmp_path))


def test_repeated_save_of_a_step_keeps_the_intact_checkpoint(saver, tmp_path):
    save_all(saver, 5)
    before = (tmp_path / "checkpoint_0000000005" / "metadata.json").stat().st_mtime_ns
    save_all(saver, 5)
    assert (tmp_path / "checkpoint_0000000005" / "metadata.json").stat().st_mtime_ns == before


def test_full_disk_is_a_checkpoint_error(small_disk, journal):
    token = FencingToken(small_disk)
    saver = CheckpointSaver(small_disk, "hash", 2, journal, token, pauses_s=(0.0,))
    saver.save(snapshot(3)._replace(student={"weight": torch.zeros(1000, 1000)}))
    with pytest.raises(CheckpointError, match="No space left on device"):
        saver.wait()
    assert newest_checkpoint(small_disk) is None
    assert others(small_disk) == []
    save_all(saver, 4)
    assert newest_checkpoint(small_disk).name == "checkpoint_0000000004"


def test_every_file_of_a_checkpoint_is_flushed_before_it_gets_its_name(
    saver, tmp_path, monkeypatch
):
    flushed = []
    monkeypatch.setattr(checkpoint, "sync_to_disk", flushed.append)
    save_all(saver, 3)
    path = newest_checkpoint(tmp_path)
    names = {flushed_path.name for flushed_path in flushed}
    assert {file.name for file in path.iterdir()} <= names
    assert flushed[-1] == tmp_path
