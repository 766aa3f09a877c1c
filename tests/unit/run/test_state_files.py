"""What a run's folder says, of another version or with values of other types."""

import json

import pytest

from service.run import state_files
from service.run.claim import check_resumable, forget_rejected
from service.run.control import AbortReason, read_abort_reason, write_abort_reason
from service.run.durations import durations
from service.run.folder import read_spec, write_spec, write_tags
from service.run.journal import Event, read_events
from service.run.progress import Progress
from service.run.result import RunResult, read_result
from service.run.status import Status, read_status
from service.run.waiting import Waiting, read_waiting
from service.spec.errors import BadInputError
from service.spec.loading import parse_job
from service.sweep.comparison import Comparison, read_comparison
from service.tracking.tracker import SentPosition

PROGRESS = {"step": 8, "epoch": 2, "last_top1": 0.5}
RESULT = {"progress": PROGRESS, "evaluated": "val", "training_s": 1.5, "waiting_s": 0,
          "time_ms": 5}  # fmt: skip
STATUS = {"name": "run", "state": "running", "step": 3, "eta_s": None, "updated_time": 2}
EVENT = {"kind": "interval", "step": 3, "epoch": 1, "time_ms": 5, "values": {"train/loss": 0.5}}
COMPARISON = {"metric": "val/top1", "maximizes": True, "num_tried": 3, "best": {"1": 0.5},
              "default": {"1": 0.25}, "difference": 0.25, "interval": None, "p_value": None,
              "left_out": [2], "verdict": "-"}  # fmt: skip
WAITING = {"text": "2 CPUs", "since_time": 1}
ABORT = {"text": "memory", "exit_status": 2}

READERS = {
    "result.json": (
        read_result,
        RESULT,
        RunResult(Progress(8, 2, last_top1=0.5), "val", 1.5, 0, 5),
    ),
    "status.json": (read_status, STATUS, Status("run", "running", step=3, updated_time=2)),
    "waiting.json": (read_waiting, WAITING, Waiting("2 CPUs", 1)),
    "abort.json": (read_abort_reason, ABORT, AbortReason("memory", 2)),
    "confirm.json": (
        read_comparison,
        COMPARISON,
        Comparison("val/top1", True, 3, {1: 0.5}, {1: 0.25}, 0.25, None, None, (2,)),
    ),
    "journal.jsonl": (
        lambda folder: read_events(folder / "journal.jsonl"),
        EVENT,
        [Event("interval", 3, 1, 5, {"train/loss": 0.5})],
    ),
}
"""Reader, JSON content and what is read, by file."""

WRONG = [
    ("result.json", "progress", []),
    ("result.json", "progress", {"step": "8"}),
    ("result.json", "progress", {"steps": 8}),
    ("result.json", "evaluated", "train"),
    ("result.json", "training_s", None),
    ("result.json", "time_ms", 1.5),
    ("result.json", "training_s", float("nan")),
    ("result.json", "address", 5),
    ("result.json", "published", True),
    ("status.json", "state", "done"),
    ("status.json", "step", "3"),
    ("status.json", "restarts", None),
    ("status.json", "seconds", 1),
    ("waiting.json", "since_time", "1"),
    ("waiting.json", "text", ["2 CPUs"]),
    ("waiting.json", "for", "1"),
    ("abort.json", "exit_status", 0),
    ("abort.json", "exit_status", 256),
    ("abort.json", "exit_status", True),
    ("abort.json", "text", None),
    ("confirm.json", "best", [0.5]),
    ("confirm.json", "best", {"one": 0.5}),
    ("confirm.json", "interval", [1]),
    ("confirm.json", "default", {}),
    ("confirm.json", "p_value", "small"),
    ("journal.jsonl", "kind", "other"),
    ("journal.jsonl", "step", -1),
    ("journal.jsonl", "step", 1.5),
    ("journal.jsonl", "time_ms", 10**30),
    ("journal.jsonl", "eta_s", float("inf")),
    ("journal.jsonl", "values", []),
    ("journal.jsonl", "values", {"train/loss": "0.5"}),
    ("journal.jsonl", "number", None),
    ("journal.jsonl", "node", "a"),
]


def put(folder, name, content):
    (folder / name).write_text(json.dumps(content) + "\n")


@pytest.mark.parametrize("name", READERS)
def test_content_is_read(tmp_path, name):
    read, content, expected = READERS[name]
    put(tmp_path, name, content)
    assert read(tmp_path) == expected


@pytest.mark.parametrize(("name", "field", "value"), WRONG)
def test_value_of_another_type_is_not_used(tmp_path, name, field, value):
    read, content, expected = READERS[name]
    put(tmp_path, name, {**content, field: value})
    if name == "result.json":
        with pytest.raises(BadInputError, match=rf"is damaged: {field}.*; remove the file and"):
            read(tmp_path)
    else:
        assert read(tmp_path) != expected


def test_events_and_scores_may_be_nan(tmp_path):
    """Of a run that diverged."""
    put(tmp_path, "journal.jsonl", {**EVENT, "values": {"train/loss": float("nan")}})
    assert repr(read_events(tmp_path / "journal.jsonl")[0].values) == "{'train/loss': nan}"
    put(tmp_path, "confirm.json", {**COMPARISON, "best": {"1": float("inf")}})
    assert read_comparison(tmp_path).best == {1: float("inf")}


def test_submission_with_a_damaged_line_counts_as_killed(tmp_path):
    marks = [("begin", 1000), ("end", 3000), ("begin", 5000), ("end", "6000"), ("begin", 9000),
             ("end", 9500)]  # fmt: skip
    lines = [json.dumps({"kind": kind, "time_ms": time_ms}) for kind, time_ms in marks]
    (tmp_path / "submissions.jsonl").write_text("\n".join(lines) + "\n")
    assert durations(tmp_path) == (0, 2.5)


def test_abort_reason_that_was_written_is_read(tmp_path):
    write_abort_reason(tmp_path, "an image", 2)
    assert read_abort_reason(tmp_path) == AbortReason("an image", 2)


def test_position_is_read(tmp_path):
    SentPosition(tmp_path).save(12)
    assert SentPosition(tmp_path).number == 12


@pytest.fixture
def started(make_content):
    """A run of version 9.9 that has made a step, and its job."""
    job = parse_job(make_content())
    job.spec.run_path.mkdir(parents=True)
    write_spec(job.spec)
    write_tags(job.spec.run_path, {"service_version": "9.9"})
    put(job.spec.run_path, "journal.jsonl", EVENT)
    return job


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sharding": {}}, "sharding"),
        ({"schema_version": 2}, "schema_version"),
        ({"student": {"model": "resnet18", "dropout": 0.1}}, "student.dropout"),
        ({"dataset": {}}, "dataset.train"),
    ],
)
def test_run_of_another_version_is_refused_in_one_line(started, change, field):
    path = started.spec.run_path / "spec.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    for read in (lambda: check_resumable(started), lambda: read_spec(started.spec.run_path)):
        with pytest.raises(BadInputError) as caught:
            read()
        (problem,) = caught.value.problems
        assert "was written by version 9.9 of the service" in problem.wrong
        assert field in problem.wrong
        assert state_files.service_version() in problem.wrong
        assert problem.remedy == "use version 9.9 for this run, or another name for a new run"


def test_version_that_is_not_known_is_another_one(started):
    run_path = started.spec.run_path
    put(run_path, "spec.json", {"name": "run", "teachers": []})
    for tags in ("{", json.dumps({"service_version": state_files.service_version()})):
        (run_path / "tags.json").write_text(tags)
        with pytest.raises(BadInputError, match="was written by another version of the service"):
            read_spec(run_path)


def test_rejected_submission_of_another_version_binds_nothing(started):
    run_path = started.spec.run_path
    put(run_path, "spec.json", {"name": "run", "teachers": []})
    (run_path / "journal.jsonl").unlink()
    check_resumable(started)
    forget_rejected(started.spec)
    assert not (run_path / "tags.json").exists()
