"""Checkpoints as logged models of a SQLite store: each there once, and the newest kept."""

import contextlib
from unittest import mock

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from safetensors.torch import load_file
from support.tracked_students import add_students, write_run

from service.run.journal import JOURNAL_NAME, JournalReader, read_events
from service.run.student_card import CLASSES_NAME
from service.run.tracked_checkpoints import tracked_checkpoint_path, waiting_steps
from service.spec.errors import BadInputError
from service.tracking import student_model
from service.tracking.event_sender import EventSender, SentPosition
from service.tracking.mlflow_run import MlflowRun
from service.tracking.student_model import log_student, logged_students
from service.tracking.weights_source import download_weights

AWAY = MlflowException("the server is away")
# What is called on the server for one checkpoint, in this order.
CALLS = (
    "search_logged_models",
    "create_logged_model",
    "log_model_artifacts",
    "log_batch",
    "log_outputs",
    "finalize_logged_model",
    "delete_logged_model",
)


pytestmark = pytest.mark.usefixtures("own_tracking")


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def _fast_export(monkeypatch):
    """Exports a file instead of a network, where only the calls matter."""

    def export(model, spec, student, files, exported):
        exported.mkdir()
        (exported / "MLmodel").write_text(model.model_id)

    monkeypatch.setattr(student_model, "_export", export)


def run_of(make_content, checkpoints, name="run"):
    return write_run(make_content(name=name, tracking={"checkpoints": checkpoints}))


def sender_of(spec, uri):
    """A sender as a new process has it, and what it is to send."""
    position = SentPosition(spec.run_path)
    events = JournalReader(spec.run_path / JOURNAL_NAME, position.number).read()
    return EventSender(MlflowRun(spec, uri), spec, position), events


def send_all(spec, uri):
    sender, events = sender_of(spec, uri)
    sender.send_all(events)
    return sender


def models_of(run):
    """Every model of the run that was not deleted, complete or not."""
    query = f"source_run_id = '{run.run_id}'"
    return MlflowClient(run.uri).search_logged_models([run.experiment_id], query)


def steps_of(run):
    return sorted(int(model.tags["step"]) for model in models_of(run))


def test_a_checkpoint_can_be_loaded_compared_and_registered(make_content, uri, tmp_path):
    spec = run_of(make_content, {"newest": 2})
    students = add_students(spec, [4, 8])
    run = send_all(spec, uri).run
    models = {int(model.tags["step"]): model for model in models_of(run)}
    assert models.keys() == {4, 8}
    assert waiting_steps(spec.run_path) == []
    images = torch.randn(3, 3, 16, 16)
    for step, model in models.items():
        assert model.status == "READY"
        assert model.tags["role"] == "checkpoint"
        assert {(m.key, m.value, m.step) for m in model.metrics} == {
            ("val/top1", step / 100, step),
            ("val/top5", step / 50, step),
            ("val/loss", 1 / step, step),
        }
        assert {(m.dataset_name, m.dataset_digest) for m in model.metrics} == {("val", "f" * 36)}
        for address in (f"models:/{model.model_id}", f"runs:/{run.run_id}/student-step-{step}"):
            loaded = mlflow.pytorch.load_model(address)
            with torch.no_grad():
                assert torch.allclose(loaded(images), students[step](images), atol=1e-5)
            folder = tmp_path / f"fetched-{step}-{address[:4]}"
            folder.mkdir()
            weights = load_file(download_weights(address, str(folder), "teacher.weights.source"))
            assert all(torch.equal(weights[k], v) for k, v in students[step].state_dict().items())
        version = mlflow.register_model(f"models:/{model.model_id}", "students")
        assert version.run_id == run.run_id
    outputs = MlflowClient(uri).get_run(run.run_id).outputs.model_outputs
    assert {(o.model_id, o.step) for o in outputs} == {(m.model_id, s) for s, m in models.items()}


@pytest.mark.usefixtures("_fast_export")
def test_the_points_of_a_run_are_there_once(make_content, uri):
    spec = run_of(make_content, {})
    add_students(spec, [4, 8])
    run = send_all(spec, uri).run
    for name in ("val/top1", "val/loss", "train/loss", "system/peak_memory_bytes"):
        points = MlflowClient(uri).get_metric_history(run.run_id, name)
        assert [point.step for point in points] == [4, 8]


@pytest.mark.usefixtures("_fast_export")
def test_the_newest_are_kept_and_a_registered_one_stays(make_content, uri):
    spec = run_of(make_content, {"newest": 2})
    add_students(spec, [4])
    run = send_all(spec, uri).run
    (first,) = models_of(run)
    mlflow.register_model(f"models:/{first.model_id}", "students")
    for step in (8, 12, 16):
        add_students(spec, [step])
        send_all(spec, uri)
    assert steps_of(run) == [4, 12, 16]


@pytest.mark.usefixtures("_fast_export")
def test_of_many_that_waited_only_the_newest_are_sent(make_content, uri, monkeypatch):
    spec = run_of(make_content, {"newest": 2})
    add_students(spec, [4, 8, 12, 16])
    # The training keeps the newest files alone.
    tracked_checkpoint_path(spec.run_path, 4).unlink()
    created = []
    create = MlflowClient.create_logged_model
    monkeypatch.setattr(
        MlflowClient,
        "create_logged_model",
        lambda client, *arguments: created.append(arguments) or create(client, *arguments),
    )
    run = send_all(spec, uri).run
    assert steps_of(run) == [12, 16]
    assert len(created) == 2
    assert waiting_steps(spec.run_path) == []
    assert SentPosition(spec.run_path).number == len(read_events(spec.run_path / JOURNAL_NAME))


def fail_once(monkeypatch, name, is_answer_lost):
    """Let the server be away at the next call of this name, before or after it did its work."""
    call, is_failing = getattr(MlflowClient, name), [True]

    def call_or_fail(client, *arguments, **options):
        if not is_failing:
            return call(client, *arguments, **options)
        if is_answer_lost:
            call(client, *arguments, **options)
        is_failing.clear()
        raise AWAY

    monkeypatch.setattr(MlflowClient, name, call_or_fail)
    return is_failing


@pytest.mark.usefixtures("_fast_export")
@pytest.mark.parametrize("is_answer_lost", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_interrupted_anywhere_it_is_there_once(
    make_content, uri, monkeypatch, name, is_answer_lost
):
    spec = run_of(make_content, {"newest": 1})
    add_students(spec, [4])
    send_all(spec, uri)
    add_students(spec, [8])
    with monkeypatch.context() as patch:
        is_failing = fail_once(patch, name, is_answer_lost)
        sender, events = sender_of(spec, uri)
        with contextlib.suppress(MlflowException):
            sender.send_all(events)
        assert not is_failing
    # The next process, as after a kill, or the same one later.
    send_all(spec, uri)
    (model,) = models_of(sender.run)
    assert (model.tags["step"], model.status) == ("8", "READY")
    assert {m.key for m in model.metrics} == {"val/top1", "val/top5", "val/loss"}
    assert waiting_steps(spec.run_path) == []
    assert SentPosition(spec.run_path).number == 6


@pytest.mark.usefixtures("_fast_export")
def test_a_server_that_refuses_checkpoints_gets_the_metrics(make_content, uri, monkeypatch, caplog):
    spec = run_of(make_content, {})
    add_students(spec, [4])
    with monkeypatch.context() as patch:
        refusal = MlflowException("no models here", error_code=PERMISSION_DENIED)
        create = mock.Mock(side_effect=refusal)
        patch.setattr(MlflowClient, "create_logged_model", create)
        sender, events = sender_of(spec, uri)
        sender.send_all(events)
        add_students(spec, [8])
        sender.send_all(JournalReader(spec.run_path / JOURNAL_NAME, 3).read())
    assert sender.refusal is refusal
    assert create.call_count == 1
    assert caplog.text.count("MLflow refuses the checkpoint of step 4") == 1
    points = MlflowClient(uri).get_metric_history(sender.run.run_id, "val/top1")
    assert [point.step for point in points] == [4, 8]
    # Nothing is lost: what was refused is sent when it is accepted.
    assert waiting_steps(spec.run_path) == [8, 4]
    assert SentPosition(spec.run_path).number == 2
    send_all(spec, uri)
    assert steps_of(sender.run) == [4, 8]


@pytest.mark.usefixtures("_fast_export")
def test_damaged_and_lost_files_do_not_stop_the_others(make_content, uri, caplog):
    spec = run_of(make_content, {"newest": 9})
    add_students(spec, [2, 4, 8, 12])
    cut, damaged, lost, _ = (tracked_checkpoint_path(spec.run_path, n) for n in (2, 4, 8, 12))
    cut.write_bytes(cut.read_bytes()[:-100])
    damaged.write_bytes(b"damaged")
    lost.unlink()
    sender = send_all(spec, uri)
    assert sender.refusal is None
    assert steps_of(sender.run) == [12]
    assert waiting_steps(spec.run_path) == []
    for step in (2, 4, 8):
        assert f"the checkpoint of step {step} of run is not sent to MLflow" in caplog.text


@pytest.mark.usefixtures("_fast_export")
def test_damage_elsewhere_in_the_folder_costs_no_checkpoint(make_content, uri):
    spec = run_of(make_content, {})
    add_students(spec, [4])
    (spec.run_path / CLASSES_NAME).write_text("[")
    sender = send_all(spec, uri)
    assert isinstance(sender.refusal, BadInputError)
    assert waiting_steps(spec.run_path) == [4]
    (spec.run_path / CLASSES_NAME).unlink()
    send_all(spec, uri)
    assert steps_of(sender.run) == [4]


@pytest.mark.usefixtures("_fast_export")
def test_one_checkpoint_is_sent_at_a_time_and_all_metrics_before(make_content, uri):
    spec = run_of(make_content, {})
    add_students(spec, [4, 8])
    sender, events = sender_of(spec, uri)
    assert sender.send(events) == 3
    points = MlflowClient(uri).get_metric_history(sender.run.run_id, "val/top1")
    assert [point.step for point in points] == [4, 8]
    assert steps_of(sender.run) == [4]
    assert SentPosition(spec.run_path).number == 3


@pytest.mark.usefixtures("_fast_export")
def test_the_final_student_is_no_checkpoint(make_content, uri):
    spec = run_of(make_content, {"newest": 1})
    students = add_students(spec, [4, 8])
    weights_path = tracked_checkpoint_path(spec.run_path, 8)
    final_path = weights_path.rename(spec.run_path / "student.safetensors")
    run = MlflowRun(spec, uri)
    for _ in range(2):
        log_student(run, spec, students[8], final_path)
    (final,) = logged_students(run, "final")
    assert (final.name, final.tags["step"], final.tags["epoch"]) == ("student", "8", "2")
    assert {(m.key, m.step) for m in final.metrics} == {
        ("val/top1", 8),
        ("val/top5", 8),
        ("val/loss", 8),
    }
    send_all(spec, uri)
    assert len(logged_students(run, "final")) == 1


@pytest.mark.usefixtures("_fast_export")
def test_a_run_that_tracks_none_any_more_drops_its_files(make_content, uri):
    spec = run_of(make_content, "best")
    add_students(spec, [4])
    spec = spec.model_copy(
        update={"tracking": spec.tracking.model_copy(update={"checkpoints": "last"})}
    )
    sender = send_all(spec, uri)
    assert models_of(sender.run) == []
    assert waiting_steps(spec.run_path) == []
