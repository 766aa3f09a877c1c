"""An alias moves to a version that passes the bar: decided once, read back from a SQLite store."""

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from service.spec.sections import Promotion
from service.tracking.promotion import figures_tags, promote

VAL, OTHER = "a" * 64, "b" * 64
CHAMPION = Promotion(alias="champion")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return MlflowClient(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")


class Model:
    """A registered model; versions are numbered from 1."""

    def __init__(self, client, name, folder):
        self.client, self.name, self._folder = client, name, folder
        client.create_registered_model(name)

    def add(self, top1=None, fingerprint=VAL):
        source = self._folder.as_uri()
        tags = figures_tags(top1, fingerprint)
        return str(self.client.create_model_version(self.name, source, tags=tags).version)

    def promote(self, version, promotion=CHAMPION):
        text = promote(self.client, self.name, version, promotion)
        assert self.client.get_model_version(self.name, version).tags["promotion"] == text
        return text

    @property
    def champion(self):
        try:
            return str(self.client.get_model_version_by_alias(self.name, "champion").version)
        except MlflowException:
            return None


@pytest.fixture
def model(client, request, tmp_path):
    return Model(client, request.node.name, tmp_path)


def with_champion(model, top1=0.5, fingerprint=VAL):
    model.promote(model.add(top1, fingerprint), Promotion(alias="champion", beats_current=False))
    assert model.champion == "1"
    return model


def test_first_version_gets_the_alias(model):
    text = model.promote(model.add(0.5))
    assert model.champion == "1"
    assert "champion is moved to version 1" in text
    assert "50.00%" in text


@pytest.mark.parametrize(
    ("top1", "moves"), [(0.5, False), (0.5 - 1e-9, False), (0.5 + 1e-9, True), (0.9, True)]
)
def test_alias_moves_to_a_strictly_better_version(model, top1, moves):
    with_champion(model)
    text = model.promote(model.add(top1))
    assert model.champion == ("2" if moves else "1")
    assert ("not moved" in text) == (not moves)


@pytest.mark.parametrize(
    ("top1", "min_top1", "moves"), [(0.7, 0.7, True), (0.6999, 0.7, False), (0.0, 0.0, True)]
)
def test_bar_is_reached_at_min_top1(model, top1, min_top1, moves):
    text = model.promote(model.add(top1), Promotion(alias="champion", min_top1=min_top1))
    assert model.champion == ("1" if moves else None)
    assert ("min_top1" in text) == (not moves)


@pytest.mark.parametrize(
    ("top1", "fingerprint", "word"),
    [(0.1, OTHER, "other data"), (None, None, "not known")],
)
def test_version_measured_on_other_data_is_not_beaten(model, top1, fingerprint, word):
    with_champion(model, top1, fingerprint)
    version = model.add(0.9)
    text = model.promote(version)
    assert model.champion == "1"
    assert word in text
    assert "set tracking.promote.beats_current to false" in text
    # The remedy is another rule: it is decided anew.
    model.promote(version, Promotion(alias="champion", beats_current=False))
    assert model.champion == "2"


def test_version_without_an_accuracy_passes_no_bar(model):
    version = model.add(None)
    assert "not known" in model.promote(version, Promotion(alias="champion", min_top1=0.0))
    assert model.champion is None
    with_champion_version = model.add(0.5)
    model.promote(with_champion_version)
    assert "not known" in model.promote(model.add(None))
    assert model.champion == with_champion_version


def test_publishing_again_takes_nothing_back(model):
    with_champion(model)
    first = model.promote(model.add(0.6))
    model.promote(model.add(0.7))
    assert model.champion == "3"
    # The same decision, word for word, though another version has the alias.
    assert model.promote("2") == first
    # Nor where a person has moved it back.
    model.client.set_registered_model_alias(model.name, "champion", "1")
    assert model.promote("2") == first
    assert model.champion == "1"


def test_a_version_that_was_refused_stays_refused(model):
    with_champion(model, 0.6)
    refused = model.add(0.5)
    first = model.promote(refused)
    model.client.delete_registered_model_alias(model.name, "champion")
    assert model.promote(refused) == first
    assert model.champion is None


class FailingClient:
    """A client whose answers are lost from the ``num_calls``-th change on, as when it is killed."""

    def __init__(self, client, num_calls):
        self._client, self._num_left = client, num_calls

    def __getattr__(self, name):
        if not name.startswith("set_"):
            return getattr(self._client, name)
        if self._num_left == 0:
            raise MlflowException("away")
        self._num_left -= 1
        return getattr(self._client, name)


@pytest.mark.parametrize("num_calls", range(4))
@pytest.mark.parametrize("has_moved_on", [False, True])
def test_interrupted_promotion_is_completed(client, model, num_calls, has_moved_on):
    """It ends as if undisturbed, unless another version has got the alias in the meantime."""
    with_champion(model)
    version = model.add(0.6)
    with pytest.raises(MlflowException):
        promote(FailingClient(client, num_calls), model.name, version, CHAMPION)
    if has_moved_on:
        model.promote(model.add(0.7))
    for _ in range(2):
        model.promote(version)
    assert model.champion == ("3" if has_moved_on else "2")


def test_damaged_decision_is_made_anew(model):
    version = model.add(0.6)
    model.client.set_model_version_tag(model.name, version, "promotion_state", '{"rule": 3}')
    model.promote(version)
    assert model.champion == version
