"""The driver sends checkpoints beside metrics; failures of the server cost neither."""

from unittest import mock

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from support.tracked_students import add_students, write_run

from service.run.tracked_checkpoints import waiting_steps
from service.tracking import student_model
from service.tracking.student_model import logged_students
from service.tracking.tracker import Tracker

STEPS = [4, 8, 12]


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def _fast_export(monkeypatch, own_tracking):
    monkeypatch.setattr(student_model, "_export", lambda *arguments: arguments[-1].mkdir())


@pytest.fixture
def spec(make_content):
    return write_run(make_content(tracking={"checkpoints": {}}))


def track(spec, uri):
    tracker = Tracker(spec, uri, {}, None)
    add_students(spec, STEPS)
    return tracker.close("stopped")


def logged_steps(run):
    return sorted(int(model.tags["step"]) for model in logged_students(run, "checkpoint"))


def points_of(run):
    history = MlflowClient(run.uri).get_metric_history(run.run_id, "val/top1")
    return [point.step for point in history]


def fail(monkeypatch, errors):
    """Let creating a model fail with these errors, and then work."""
    create = MlflowClient.create_logged_model
    answers = iter(errors)

    def create_or_fail(client, *arguments):
        error = next(answers, None)
        if error is not None:
            raise error
        return create(client, *arguments)

    monkeypatch.setattr(MlflowClient, "create_logged_model", create_or_fail)


def test_all_are_sent_when_the_run_ends_soon(spec, uri):
    run = track(spec, uri)
    assert (logged_steps(run), points_of(run)) == (STEPS, STEPS)
    assert waiting_steps(spec.run_path) == []


def test_short_outages_cost_nothing(spec, uri, monkeypatch):
    fail(monkeypatch, [MlflowException("the server is away")] * 2)
    run = track(spec, uri)
    assert (logged_steps(run), points_of(run)) == (STEPS, STEPS)


def test_a_server_that_is_away_for_models_leaves_the_run_unfinished(spec, uri, monkeypatch):
    away = mock.Mock(side_effect=MlflowException("the server is away"))
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_logged_model", away)
        assert track(spec, uri) is None
    assert waiting_steps(spec.run_path) == STEPS[::-1]
    run = Tracker(spec, uri, {}, None).close("stopped")
    assert (logged_steps(run), points_of(run)) == (STEPS, STEPS)


def test_a_server_that_refuses_models_does_not_hold_up_the_run(spec, uri, monkeypatch):
    refusal = MlflowException("no models here", error_code=PERMISSION_DENIED)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_logged_model", mock.Mock(side_effect=refusal))
        run = track(spec, uri)
    assert (logged_steps(run), points_of(run)) == ([], STEPS)
    run = Tracker(spec, uri, {}, None).close("stopped")
    assert (logged_steps(run), points_of(run)) == (STEPS, STEPS)
