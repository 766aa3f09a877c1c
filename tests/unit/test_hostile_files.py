"""Each reader of a file, given what nobody meant: it answers at once, and repeats nothing."""

import json
import signal

import pytest
from support.hostile_files import DAMAGED, NOT_FILES, SECRET, SECRET_JSON

from data_pipeline.beton import BetonError
from data_pipeline.manifest import read_manifest
from data_pipeline.staging import StagingError, read_manifest_at
from service.cluster.crashes import read_crash, record_crash
from service.cluster.waiting import recorded_placement
from service.compare.loading import load_comparison
from service.compare.resuming import read_comparison as read_stored_comparison
from service.run.claim import claim_run_folder, has_started
from service.run.control import AbortReason, read_abort_reason
from service.run.durations import durations, recorded_submission
from service.run.folder import FencedError, FencingToken, read_spec, read_tags
from service.run.journal import Journal, read_events
from service.run.result import read_result
from service.run.status import Status, read_status, write_stopped
from service.run.student_card import read_classes
from service.run.waiting import read_waiting
from service.spec.errors import EXIT_FAILED, BadInputError
from service.spec.loading import load_job, parse_spec
from service.sweep.comparison import read_comparison
from service.sweep.loading import load_sweep
from service.sweep.resuming import read_sweep
from service.tracking.destination import is_destination, stored_run_id
from service.tracking.tracker import SentPosition
from service.training.checkpoint import is_intact

HOSTILE = {**NOT_FILES, **DAMAGED}
DEADLINE_S = 5

REFUSING = {
    "spec.json": (read_spec, BadInputError),
    "sweep.json": (read_sweep, BadInputError),
    "compare.json": (read_stored_comparison, BadInputError),
    "classes.json": (read_classes, BadInputError),
    "result.json": (read_result, BadInputError),
    "a.beton.json": (lambda folder: read_manifest(folder / "a.beton"), BetonError),
    "b.beton.json": (lambda folder: read_manifest_at(str(folder / "b.beton")), StagingError),
    "c.json": (lambda folder: load_job(folder / "c.json"), BadInputError),
    "d.json": (lambda folder: load_sweep(folder / "d.json"), BadInputError),
    "e.json": (lambda folder: load_comparison(folder / "e.json"), BadInputError),
}
"""What must raise an error of this class, by the file that is read."""

NAMING_FIELDS = ("c.json", "d.json", "e.json", "compare.json")


def abort_text(folder):
    reason = read_abort_reason(folder)
    assert reason == AbortReason(f"{folder / 'abort.json'} does not say why", EXIT_FAILED)


DOING_WITHOUT = {
    "metadata.json": (is_intact, False),
    "submissions.jsonl": (durations, (0, 0)),
    "status.json": (read_status, Status("run")),
    "waiting.json": (read_waiting, None),
    "abort.json": (abort_text, None),
    "confirm.json": (read_comparison, None),
    "crash_rank0.txt": (lambda folder: read_crash(folder, 0), None),
    ".placement_group": (recorded_placement, None),
}
"""What must return this, by the file that is read."""

APPENDING = {
    "submissions.jsonl": lambda folder: recorded_submission(folder),
    "crash_rank0.txt": lambda folder: record_crash(folder, 0),
}


@pytest.fixture(autouse=True)
def deadline():
    """A reader that waits for another process fails its test, and no other one."""

    def fail(signum, frame):
        raise AssertionError(f"no answer within {DEADLINE_S} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(DEADLINE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def run_spec(make_content):
    return parse_spec(make_content())


@pytest.fixture(params=HOSTILE)
def make_hostile(request, tmp_path):
    """A function that makes a file hostile in a run's folder; what it links to must not change."""
    folder, outside = tmp_path / "run", tmp_path / "outside"
    folder.mkdir()

    def make(name):
        HOSTILE[request.param](folder / name, outside)
        return folder

    make.kind = request.param
    yield make
    assert not outside.exists() or outside.read_text() == SECRET_JSON


@pytest.mark.parametrize("name", REFUSING)
def test_file_that_decides_is_refused(make_hostile, caplog, name):
    read, error = REFUSING[name]
    folder = make_hostile(name)
    with pytest.raises(error, match=r"; \w+") as caught:
        read(folder)
    text = str(caught.value)
    assert len(text.splitlines()) <= 6
    assert name in text
    # Fields of a spec are named, also those that it does not have.
    assert name in NAMING_FIELDS or SECRET not in text + caplog.text


@pytest.mark.parametrize("name", DOING_WITHOUT)
def test_file_that_can_be_done_without_counts_as_absent(make_hostile, caplog, name):
    read, expected = DOING_WITHOUT[name]
    assert read(make_hostile(name)) == expected
    assert SECRET not in caplog.text


def test_tags_are_texts(make_hostile):
    folder = make_hostile("tags.json")
    if make_hostile.kind == "object of others":
        assert read_tags(folder) == {SECRET: SECRET}
    else:
        with pytest.raises(BadInputError, match=r"tags\.json: is damaged: .*; restore the file"):
            read_tags(folder)


def test_damaged_lines_of_a_journal_are_skipped(make_hostile):
    path = make_hostile("journal.jsonl") / "journal.jsonl"
    if make_hostile.kind in NOT_FILES:
        for read in (
            read_events,
            lambda path: Journal(path, 10**6),
            lambda _: has_started(path.parent),
        ):
            with pytest.raises(
                BadInputError, match=r"journal\.jsonl: is damaged: .*; move it away"
            ):
                read(path)
        return
    assert read_events(path) == []
    Journal(path, 10**6).append("interval", 7, 0, {})
    assert [event.step for event in read_events(path)] == [7]


def test_damaged_status_is_no_obstacle_to_stopping(make_hostile):
    folder = make_hostile("status.json")
    write_stopped(folder)
    if make_hostile.kind == "object of others":
        assert json.loads((folder / "status.json").read_text())["state"] == "stopped"


@pytest.mark.parametrize("kind", NOT_FILES)
@pytest.mark.parametrize("name", ["mlflow_run_id", "journal.sent", "mlflow_destination"])
def test_file_of_one_text_that_cannot_be_read_counts_as_absent(tmp_path, kind, name, run_spec):
    NOT_FILES[kind](tmp_path / name, tmp_path / "outside")
    assert stored_run_id(tmp_path) is None
    assert SentPosition(tmp_path).number == 0
    assert not is_destination(run_spec, "http://host")


@pytest.mark.parametrize("text", ["a/../b", "", "a" * 65, "é", "a b", "\0"])
def test_text_that_is_no_run_id_counts_as_absent(tmp_path, text):
    (tmp_path / "mlflow_run_id").write_text(text)
    assert stored_run_id(tmp_path) is None


@pytest.mark.parametrize("text", ["-1", "9" * 30, "9" * 5000, "x", "1 2"])
def test_text_that_is_no_position_counts_as_the_start(tmp_path, text):
    (tmp_path / "journal.sent").write_text(text)
    assert SentPosition(tmp_path).number == 0


@pytest.mark.parametrize("kind", NOT_FILES)
@pytest.mark.parametrize("name", APPENDING)
def test_nothing_is_appended_outside_the_folder(tmp_path, kind, name):
    outside = tmp_path / "outside"
    NOT_FILES[kind](tmp_path / name, outside)
    with APPENDING[name](tmp_path):
        pass
    assert not outside.exists() or outside.read_text() == SECRET_JSON


@pytest.mark.parametrize("kind", ["FIFO", "folder", "device", "link"])
def test_lock_that_is_no_file_is_refused(tmp_path, run_spec, kind):
    run_spec.run_path.mkdir(parents=True)
    NOT_FILES[kind](run_spec.run_path / ".lock", tmp_path / "outside")
    with (
        pytest.raises(BadInputError, match=r"\.lock: .* is a .*; give"),
        claim_run_folder(run_spec),
    ):
        pass
    assert kind != "link" or (tmp_path / "outside").read_text() == SECRET_JSON


@pytest.mark.parametrize("kind", NOT_FILES)
def test_replaced_fencing_token_fences(tmp_path, kind):
    token = FencingToken(tmp_path)
    token.check()
    (tmp_path / ".fencing_token").unlink()
    NOT_FILES[kind](tmp_path / ".fencing_token", tmp_path / "outside")
    with pytest.raises(FencedError):
        token.check()
