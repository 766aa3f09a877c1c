"""Events of students that wait for MLflow, and their files."""

import os
import time

import pytest

from data_pipeline.files import NotRegularError
from service.run.journal import JOURNAL_NAME, Journal, read_events
from service.run.tracked_checkpoints import (
    copy_waiting,
    make_folder,
    remove_unnamed,
    remove_waiting,
    tracked_checkpoint_path,
    waiting_steps,
)


def test_student_has_the_time_of_its_evaluation(tmp_path):
    """Also where evaluations are repeated after a restart, of which later ones were reached."""
    journal = Journal(tmp_path / JOURNAL_NAME, 10**6)
    journal.append("evaluation", 10, 1, {"val/top1": 0.5})
    journal.append("evaluation", 20, 2, {"val/top1": 0.6})
    time.sleep(0.01)
    resumed = Journal(tmp_path / JOURNAL_NAME, 10**6)
    for step in (10, 20):
        resumed.append("evaluation", step, step // 10, {"val/top1": 0.5})
        assert not resumed.has("student", step)
        resumed.append("student", step, step // 10, {"val/top1": 0.5})
        assert resumed.has("student", step)
    first, second, *students = read_events(tmp_path / JOURNAL_NAME)
    assert [(event.kind, event.step, event.time_ms) for event in students] == [
        ("student", 10, first.time_ms),
        ("student", 20, second.time_ms),
    ]


def test_students_are_dropped_last_where_the_journal_is_full(tmp_path):
    journal = Journal(tmp_path / JOURNAL_NAME, limit_bytes=10_000)
    for step in range(1, 400):
        journal.append("interval", step, 0, {"train/loss": 1.0})
        journal.append("evaluation", step, 0, {"val/top1": 1.0})
        if step % 40 == 0:
            journal.append("student", step, 0, {"val/top1": 1.0})
    assert (tmp_path / JOURNAL_NAME).stat().st_size <= 10_000
    kept = [e.step for e in read_events(tmp_path / JOURNAL_NAME) if e.kind == "student"]
    assert kept == list(range(40, 400, 40))


def test_waiting_files_are_found_by_their_names(tmp_path):
    assert waiting_steps(tmp_path) == []
    folder = tracked_checkpoint_path(tmp_path, 0).parent
    folder.mkdir()
    for step in (5, 123_456_789, 40):
        tracked_checkpoint_path(tmp_path, step).touch()
    (folder / "step_12.safetensors").touch()
    (folder / "notes").mkdir()
    assert waiting_steps(tmp_path) == [123_456_789, 40, 5]
    remove_unnamed(tmp_path, {40})
    assert [path.name for path in folder.iterdir()] == ["step_0000000040.safetensors"]


def test_links_in_place_of_files_or_their_folder_are_not_followed(tmp_path):
    """Of a run's folder that somebody else has made."""
    victim, run_path, copied = tmp_path / "victim", tmp_path / "run", tmp_path / "copied"
    for folder in (victim, run_path):
        folder.mkdir()
    kept = [victim / "step_0000000004.safetensors", victim / "other"]
    for path in kept:
        path.write_text("kept")
    folder = tracked_checkpoint_path(run_path, 4).parent
    folder.symlink_to(victim)
    with pytest.raises(NotRegularError):
        copy_waiting(run_path, 4, copied)
    remove_waiting(run_path, 4)
    remove_unnamed(run_path, ())
    assert waiting_steps(run_path) == []
    make_folder(run_path)
    assert not folder.is_symlink()
    tracked_checkpoint_path(run_path, 4).symlink_to(kept[0])
    os.mkfifo(tracked_checkpoint_path(run_path, 8))
    for step in (4, 8):
        with pytest.raises(NotRegularError):
            copy_waiting(run_path, step, copied)
        remove_waiting(run_path, step)
    assert list(folder.iterdir()) == []
    assert [path.read_text() for path in kept] == ["kept", "kept"]
