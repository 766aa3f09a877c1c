"""A run that is tracked elsewhere starts anew there; at the same place it continues."""

import pytest

from service.spec.loading import parse_spec
from service.spec.sections import Promotion
from service.tracking.destination import is_destination, publication_key, set_destination

URI = "http://mlflow:5000"


@pytest.fixture
def spec(make_content):
    parsed = parse_spec(make_content(tracking={"experiment": "one", "register_as": "r"}))
    parsed.run_path.mkdir(parents=True)
    set_destination(parsed, URI)
    for name in ("mlflow_run_id", "journal.sent"):
        (parsed.run_path / name).write_text("known there")
    return parsed


def changed(spec, **fields):
    return spec.model_copy(update={"tracking": spec.tracking.model_copy(update=fields)})


@pytest.mark.parametrize(
    ("fields", "uri", "is_kept"),
    [
        ({}, URI, True),
        ({"log_every_steps": 9, "register_as": "s", "promote": Promotion(alias="a")}, URI, True),
        ({}, "http://other:5000", False),
        ({"experiment": "two"}, URI, False),
    ],
    ids=str,
)
def test_what_a_server_knows_is_forgotten_at_another_destination(spec, fields, uri, is_kept):
    moved = changed(spec, **fields)
    assert is_destination(moved, uri) == is_kept
    set_destination(moved, uri)
    assert is_destination(moved, uri)
    for name in ("mlflow_run_id", "journal.sent"):
        assert (spec.run_path / name).exists() == is_kept


def test_student_is_published_anew_where_any_name_has_changed(spec):
    key = publication_key(spec, URI)
    assert publication_key(changed(spec, log_every_steps=9), URI) == key
    assert publication_key(spec, "http://other:5000") != key
    for field in ("experiment", "register_as"):
        assert publication_key(changed(spec, **{field: "x"}), URI) != key
    promotions = [Promotion(alias="a"), Promotion(alias="b"), Promotion(alias="a", min_top1=0.5)]
    promotions.append(Promotion(alias="a", beats_current=False))
    keys = {publication_key(changed(spec, promote=each), URI) for each in promotions}
    assert len(keys | {key}) == 5


def test_address_is_not_written(spec):
    for path in spec.run_path.iterdir():
        assert "mlflow:5000" not in path.read_text()
