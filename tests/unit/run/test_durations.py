"""Times of training and waiting, over all submissions of a run."""

import json
import time

import pytest

from service.run.durations import Durations, durations, recorded_submission
from service.run.journal import JOURNAL_NAME


def write(run_path, submissions, events):
    """``submissions``: (kind, seconds); ``events`` of the journal likewise."""
    lines = [json.dumps({"kind": kind, "time_ms": 1000 * s}) for kind, s in submissions]
    (run_path / "submissions.jsonl").write_text("".join(f"{line}\n" for line in lines))
    fields = {"step": 1, "epoch": 0, "values": {}}
    lines = [json.dumps({"kind": kind, "time_ms": 1000 * s, **fields}) for kind, s in events]
    (run_path / JOURNAL_NAME).write_text("".join(f"{line}\n" for line in lines))


def test_training_and_waiting_are_counted_apart(tmp_path):
    submissions = [("begin", 100), ("end", 160), ("begin", 1000), ("end", 1100)]
    # Waits 10 s, trains 20 s, restarts for 5 s, trains 15 s, ends after 10 s; then 30, 60 and 10 s.
    events = [("start", 110), ("interval", 130), ("start", 135), ("interval", 150)]
    events += [("start", 1030), ("evaluation", 1090)]
    write(tmp_path, submissions, events)
    assert durations(tmp_path) == Durations(20 + 15 + 60, 10 + 5 + 10 + 30 + 10)


def test_submission_that_never_started_has_waited(tmp_path):
    write(tmp_path, [("begin", 100), ("end", 160)], [])
    assert durations(tmp_path) == Durations(0, 60)


def test_submission_whose_driver_was_killed_ends_with_its_last_event(tmp_path):
    submissions = [("begin", 100), ("begin", 1000), ("end", 1010)]
    events = [("start", 120), ("interval", 150), ("start", 1004), ("interval", 1010)]
    write(tmp_path, submissions, events)
    assert durations(tmp_path) == Durations(30 + 6, 20 + 4)


def test_submission_that_is_running_counts_up_to_now(tmp_path):
    start_s = time.monotonic()
    with recorded_submission(tmp_path):
        time.sleep(0.1)
        waited_s = durations(tmp_path).waiting_s
    assert waited_s + 0.001 >= 0.1
    assert waited_s <= time.monotonic() - start_s + 0.001


def test_trial_without_submissions_has_only_trained(tmp_path):
    assert durations(tmp_path) == Durations(0, 0)
    write(tmp_path, [], [("start", 5), ("interval", 9)])
    assert durations(tmp_path) == pytest.approx(Durations(4, 0))
