"""The journal records each event once, keeps to its size limit, and survives disk failures."""

import itertools
import json
import math
import subprocess
from pathlib import Path

import pytest

from service.run import journal as journal_module
from service.run.journal import (
    JOURNAL_NAME,
    MAX_JOURNAL_BYTES,
    Event,
    Journal,
    JournalReader,
    last_number,
    read_events,
)
from service.run.status import Status
from service.spec.errors import BadInputError


def test_journal_records_each_event_once(tmp_path):
    journal = Journal(tmp_path / JOURNAL_NAME, 10**6)
    for step in (10, 20, 30):
        journal.append("interval", step, 0, {"train/loss": step / 10}, eta_s=1.0)
    resumed = Journal(tmp_path / JOURNAL_NAME, 10**6)
    for step in (20, 30, 40):
        resumed.append("interval", step, 0, {"train/loss": step / 10}, eta_s=1.0)
    resumed.append("evaluation", 30, 0, {"val/top1": 0.5})
    reader = JournalReader(tmp_path / JOURNAL_NAME, 0)
    events = reader.read()
    assert [(event.kind, event.step) for event in events] == [
        ("interval", 10),
        ("interval", 20),
        ("interval", 30),
        ("interval", 40),
        ("evaluation", 30),
    ]
    assert reader.read() == []


def test_torn_line_of_a_killed_writer_is_dropped(tmp_path):
    journal = Journal(tmp_path / JOURNAL_NAME, 10**6)
    journal.append("interval", 1, 0, {"train/loss": 1.0})
    path = tmp_path / JOURNAL_NAME
    with path.open("a") as file:
        file.write('{"kind": "interv')
    assert [event.step for event in read_events(path)] == [1]
    Journal(tmp_path / JOURNAL_NAME, 10**6).append("interval", 2, 0, {"train/loss": math.pi})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]


def fill(journal, steps):
    for step in steps:
        journal.append("interval", step, 0, {"train/loss": step / 10})


def test_journal_over_its_limit_halves_its_resolution(tmp_path):
    path = tmp_path / JOURNAL_NAME
    journal = Journal(path, 10_000)
    journal.append("teacher", 0, 0, {"teacher/top1": 0.5})
    for epoch in range(10):
        fill(journal, range(100 * epoch + 1, 100 * epoch + 101))
        journal.append("evaluation", 100 * epoch + 100, epoch, {"val/top1": 0.5})
    assert path.stat().st_size <= 10_000
    events = read_events(path)
    kinds = [event.kind for event in events]
    assert kinds.count("teacher") == 1
    assert kinds.count("evaluation") == 10
    steps = [event.step for event in events if event.kind == "interval"]
    assert 16 <= len(steps) < 100
    assert steps == sorted(set(steps))
    # The remaining points are evenly spaced over the run.
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    assert max(gaps) <= 4 * min(gaps)
    assert steps[-1] > 900


def test_reader_returns_each_event_once_while_the_journal_is_thinned(tmp_path):
    path = tmp_path / JOURNAL_NAME
    journal, reader = Journal(path, 10_000), JournalReader(path, 0)
    seen = []
    for step in range(1, 501):
        fill(journal, [step])
        if step % 7 == 0:
            seen += reader.read()
    seen += reader.read()
    steps = [event.step for event in seen]
    assert steps == sorted(set(steps))
    kept = {event.step for event in read_events(path)}
    assert kept <= set(steps)


def test_reader_starts_after_a_number(tmp_path):
    path = tmp_path / JOURNAL_NAME
    fill(Journal(path, 10**6), range(1, 6))
    assert [event.step for event in JournalReader(path, 3).read()] == [4, 5]


@pytest.mark.parametrize("small_disk", ["16k"], indirect=True)
def test_full_disk_reduces_only_the_resolution(small_disk, monkeypatch):
    monkeypatch.setattr(journal_module, "MAX_UNWRITTEN", 250)
    path = small_disk / JOURNAL_NAME
    journal = Journal(path, 10**6)
    fill(journal, range(1, 750))
    assert all(event.values == {"train/loss": event.step / 10} for event in read_events(path))
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    fill(journal, [750])
    steps = [event.step for event in read_events(path)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 750
    assert len(steps) > 125


def test_temporary_write_errors_lose_no_events(tmp_path):
    journal = Journal(tmp_path / "missing" / JOURNAL_NAME, 10**6)
    fill(journal, [1, 2, 3])
    assert not (tmp_path / "missing").exists()
    (tmp_path / "missing").mkdir()
    fill(journal, [4])
    assert [e.step for e in read_events(tmp_path / "missing" / JOURNAL_NAME)] == [1, 2, 3, 4]


def test_status_follows_the_journal():
    status = Status("run")
    status.update(Event("start", 0, 0, 1000, {}))
    status.update(Event("interval", 10, 0, 2000, {"train/loss": 1.0}, eta_s=30.0))
    status.update(Event("checkpoint", 8, 0, 3000, {}))
    assert (status.state, status.step, status.restarts) == ("running", 10, 0)
    assert (status.eta_s, status.last_checkpoint_step, status.last_checkpoint_time) == (
        30.0,
        8,
        3.0,
    )
    status.update(Event("checkpoint", 12, 0, 3500, {}))
    assert (status.step, status.eta_s) == (12, 30.0)
    status.update_failure(Event("note", 0, 0, 4000, {}, text="worker 1: its process has died"))
    assert status.state == "restarting"
    status.update(Event("start", 8, 0, 5000, {}))
    assert (status.state, status.step, status.restarts) == ("running", 8, 1)
    assert status.tags()["status.last_failure"] == "worker 1: its process has died"


def test_journal_of_evaluations_keeps_to_its_limit(tmp_path):
    path = tmp_path / JOURNAL_NAME
    journal = Journal(path, 10_000)
    for epoch in range(300):
        journal.append("evaluation", epoch + 1, epoch, {"val/top1": 0.5})
        fill(journal, [epoch + 1])
    assert path.stat().st_size <= 10_000
    steps = [event.step for event in read_events(path) if event.kind == "evaluation"]
    assert steps[-1] == 300
    assert len(steps) > 5


def test_sync_writes_pending_events_or_fails(tmp_path):
    path = tmp_path / "missing" / JOURNAL_NAME
    journal = Journal(path, 10**6)
    fill(journal, [1, 2])
    with pytest.raises(OSError, match="No such file"):
        journal.sync()
    path.parent.mkdir()
    journal.sync()
    assert [event.step for event in read_events(path)] == [1, 2]


def test_line_garbled_by_a_power_loss_is_skipped(tmp_path):
    path = tmp_path / JOURNAL_NAME
    fill(Journal(path, 10**6), [1])
    with path.open("ab") as file:
        file.write(bytes(100) + b"\n")
    fill(Journal(path, 10**6), [2])
    assert [event.step for event in read_events(path)] == [1, 2]


@pytest.mark.parametrize(("num_bytes", "is_thinned"), [(0, False), (-1, True)])
def test_journal_is_thinned_above_its_limit_only(tmp_path, num_bytes, is_thinned):
    """The limit is the size that 40 events have, or a byte less."""
    path = tmp_path / JOURNAL_NAME
    fill(Journal(path, 10**6), range(10, 50))
    limit = path.stat().st_size + num_bytes
    path.unlink()
    fill(Journal(path, limit), range(10, 50))
    steps = [event.step for event in read_events(path)]
    assert (len(steps) < 40) == is_thinned
    if is_thinned:
        # Every other one, and the newest.
        assert steps == list(range(11, 50, 2))


def test_thinned_journal_leaves_room_before_it_is_thinned_again(tmp_path):
    path = tmp_path / JOURNAL_NAME
    journal, sizes = Journal(path, 20_000), []
    for step in range(1000):
        fill(journal, [step])
        sizes.append(path.stat().st_size)
    drops = [after for before, after in itertools.pairwise(sizes) if after < before]
    assert drops
    assert max(drops) <= 0.75 * 20_000
    assert min(drops) >= 0.75 * 20_000 / 2 - 200
    assert max(sizes) <= 20_000


def test_few_progress_lines_are_kept_and_other_events_are_dropped(tmp_path):
    path = tmp_path / JOURNAL_NAME
    journal = Journal(path, 6_000)
    journal.append("teacher", 0, 0, {"teacher/top1": 0.5})
    fill(journal, [1, 2, 3])
    for step in range(10, 100):
        journal.append("evaluation", step, 0, {"val/top1": 0.5})
    kinds = [event.kind for event in read_events(path)]
    assert kinds.count("teacher") == 1
    assert kinds[-1] == "evaluation"
    assert 5 < kinds.count("evaluation") < 60


def test_events_are_numbered_from_one_over_restarts(tmp_path):
    path = tmp_path / JOURNAL_NAME
    assert last_number(path) == 0
    fill(Journal(path, 10**6), [1, 2])
    journal = Journal(path, 10**6)
    journal.note("copying")
    fill(journal, [3])
    assert [event.number for event in read_events(path)] == [1, 2, 3, 4]
    assert last_number(path) == 4
    assert read_events(path)[2].text == "copying"


def test_starts_and_notes_are_repeated_and_steps_are_not(tmp_path):
    path = tmp_path / JOURNAL_NAME
    journal = Journal(path, 10**6)
    for _ in range(2):
        journal.append("start", 5, 1, {})
        journal.append("note", 0, 0, {})
        journal.append("checkpoint", 5, 1, {})
        journal.append("checkpoint", 4, 1, {})
    kinds = [event.kind for event in read_events(path)]
    assert [kinds.count(kind) for kind in ("start", "note", "checkpoint")] == [2, 2, 1]


def test_memory_of_events_that_cannot_be_written_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "MAX_UNWRITTEN", 100)
    journal = Journal(tmp_path / "missing" / JOURNAL_NAME, 10**6)
    fill(journal, range(250))
    (tmp_path / "missing").mkdir()
    journal.sync()
    steps = [event.step for event in read_events(tmp_path / "missing" / JOURNAL_NAME)]
    assert 50 <= len(steps) <= 100
    assert steps[-1] == 249
    assert steps == sorted(steps)


def test_journal_that_is_too_large_to_be_one_is_refused(tmp_path):
    path = tmp_path / JOURNAL_NAME
    with path.open("wb") as file:
        file.truncate(2 * MAX_JOURNAL_BYTES)
    assert read_events(path) == []
    with path.open("wb") as file:
        file.truncate(2 * MAX_JOURNAL_BYTES + 1)
    with pytest.raises(BadInputError, match="has more than 256,000,000 bytes"):
        read_events(path)


def test_reader_waits_for_the_end_of_a_line(tmp_path):
    path = tmp_path / JOURNAL_NAME
    fill(Journal(path, 10**6), [1, 2])
    lines = path.read_bytes()
    reader = JournalReader(path, 0)
    path.write_bytes(lines[:-10])
    assert [event.step for event in reader.read()] == [1]
    with path.open("ab") as file:
        file.write(lines[-10:])
    assert [event.step for event in reader.read()] == [2]


def test_reader_starts_again_where_the_file_became_shorter(tmp_path):
    """As after a restore from a backup: the same file with fewer, newer events."""
    path, other = tmp_path / JOURNAL_NAME, tmp_path / "other.jsonl"
    fill(Journal(path, 10**6), [1, 2, 3])
    reader = JournalReader(path, 0)
    assert len(reader.read()) == 3
    assert reader.read() == []
    fill(Journal(other, 10**6), [1, 2, 3, 4])
    path.write_bytes(b"".join(other.read_bytes().splitlines(keepends=True)[3:]))
    assert [event.step for event in reader.read()] == [4]
    assert reader.read() == []


def test_lines_with_values_of_other_types_are_skipped(tmp_path):
    path = tmp_path / JOURNAL_NAME
    fill(Journal(path, 10**6), [1, 2])
    first, second = path.read_text().splitlines()
    text = second.replace('"step": 2', '"step": "2"')
    assert text != second
    path.write_text(f"{first}\n{text}\n")
    assert [event.step for event in read_events(path)] == [1]


def test_events_without_a_number_count_as_older_than_all(tmp_path):
    path = tmp_path / JOURNAL_NAME
    fill(Journal(path, 10**6), [1])
    line = json.loads(path.read_text())
    del line["number"], line["text"], line["eta_s"]
    path.write_text(json.dumps(line) + "\n")
    (event,) = read_events(path)
    assert (event.number, event.text, event.eta_s) == (0, "", None)
    assert JournalReader(path, 0).read() == []


def test_sync_flushes_the_file_if_there_is_one(tmp_path, monkeypatch):
    path, flushed = tmp_path / JOURNAL_NAME, []
    monkeypatch.setattr(
        "os.fsync", lambda number: flushed.append(Path(f"/proc/self/fd/{number}").readlink())
    )
    journal = Journal(path, 10**6)
    journal.sync()
    assert flushed == []
    fill(journal, [1])
    journal.sync()
    assert flushed == [path]
