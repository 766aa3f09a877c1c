"""An alias moves to a version that passes the bar: decided once, read back from a SQLite store."""

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from service.spec.sections import Promotion
from service.tracking.promotion import promote
from service.tracking.promotion_bar import figures_tags

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


class InterruptedClient:
    """A client that calls ``interrupt`` before each request for which ``is_meant`` has waited."""

    def __init__(self, client, is_meant, interrupt):
        self._client, self._is_meant, self._interrupt = client, is_meant, interrupt

    def __getattr__(self, name):
        if self._is_meant(name):
            self._interrupt()
        return getattr(self._client, name)


def after(num_calls, prefix=""):
    """Whether a request is that of this number, from 0, among those with the prefix."""
    numbers = iter(range(1000))
    return lambda name: name.startswith(prefix) and next(numbers) == num_calls


def is_killed(client, num_calls):
    """A client whose connection is lost before the change of this number."""

    def fail():
        raise MlflowException("away")

    return InterruptedClient(client, after(num_calls, "set_"), fail)


@pytest.mark.parametrize("num_calls", range(5))
@pytest.mark.parametrize("has_moved_on", [False, True])
def test_interrupted_promotion_is_completed(client, model, num_calls, has_moved_on):
    """It ends as if undisturbed, unless another version has got the alias in the meantime."""
    with_champion(model)
    version = model.add(0.6)
    with pytest.raises(MlflowException):
        promote(is_killed(client, num_calls), model.name, version, CHAMPION)
    if has_moved_on:
        model.promote(model.add(0.7))
    for _ in range(2):
        model.promote(version)
    assert model.champion == ("3" if has_moved_on else "2")


def test_damaged_decision_is_made_anew(model):
    version = model.add(0.6)
    model.promote(version)
    tags = model.client.get_model_version(model.name, version).tags
    (state,) = (key for key in tags if key.startswith("promotion_state"))
    model.client.set_model_version_tag(model.name, version, state, '{"rule": 3}')
    model.client.delete_registered_model_alias(model.name, "champion")
    model.promote(version)
    assert model.champion == version


@pytest.mark.parametrize("num_requests", range(12))
@pytest.mark.parametrize(("first", "second"), [(0.6, 0.7), (0.7, 0.6)])
def test_students_published_at_the_same_time_leave_it_with_the_best(
    client, model, num_requests, first, second
):
    """The second one is published as a whole between two requests of the first."""
    with_champion(model)
    slow, fast = model.add(first), model.add(second)
    between = InterruptedClient(client, after(num_requests), lambda: model.promote(fast))
    promote(between, model.name, slow, CHAMPION)
    promote(client, model.name, fast, CHAMPION)
    best = slow if first > second else fast
    assert model.champion == best


def test_students_that_both_saw_the_same_holder_leave_it_with_the_best(client, model):
    """Each stops just before it moves the alias; the worse one moves it last."""
    with_champion(model)
    better, worse, other = model.add(0.7), model.add(0.6), model.add(0.9, OTHER)
    texts = {}

    def stop_at_the_alias(version, then):
        is_first = after(0, "set_registered_model_alias")
        stopped = InterruptedClient(client, is_first, then)
        texts[version] = promote(stopped, model.name, version, CHAMPION)

    stop_at_the_alias(worse, lambda: stop_at_the_alias(better, lambda: None))
    assert model.champion == better
    assert texts[worse] == (
        f"champion is moved to version {better}, which was about to get it too, not to version "
        f"{worse}: its top-1 of 60.00% is below 70.00%"
    )
    # What was measured on other data is no rival.
    assert model.champion != other


def test_a_chain_of_others_in_between_leaves_it_with_the_best_of_them(client, model):
    with_champion(model)
    slow, middle, best = model.add(0.6), model.add(0.7), model.add(0.8)
    is_alias = after(0, "set_registered_model_alias")
    between = InterruptedClient(
        client, is_alias, lambda: [model.promote(each) for each in (middle, best)]
    )
    promote(between, model.name, slow, CHAMPION)
    assert model.champion == best


def test_claims_of_the_past_are_no_rivals(model):
    """A person took the alias back from a better version; the next one need not beat that."""
    with_champion(model)
    model.promote(model.add(0.9))
    model.client.set_registered_model_alias(model.name, "champion", "1")
    model.promote(model.add(0.6))
    assert model.champion == "3"


@pytest.mark.parametrize(
    ("top1", "text", "champion"),
    [(0.55, "moved from version 3 to version 2", "2"), (0.7, "60.00% is not above 70.00%", "3")],
)
def test_a_decision_that_was_not_carried_out_is_made_anew(client, model, top1, text, champion):
    with_champion(model)
    late = model.add(0.6)
    with pytest.raises(MlflowException):
        promote(is_killed(client, 2), model.name, late, CHAMPION)
    model.promote(model.add(top1), Promotion(alias="champion", beats_current=False))
    assert model.champion == "3"
    # The version that it has to beat now is another one.
    assert text in model.promote(late)
    assert model.champion == champion


def test_each_rule_is_applied_once(model):
    with_champion(model)
    version, bar = model.add(0.6), Promotion(alias="champion", min_top1=0.55)
    first = model.promote(version)
    assert model.promote(version, bar) == first, "it has the alias already"
    model.promote(model.add(0.7))
    for rule in (CHAMPION, bar, CHAMPION):
        model.promote(version, rule)
        assert model.champion == "3"


def test_figures_are_told_apart(model):
    bar = Promotion(alias="champion", min_top1=0.7)
    text = model.promote(model.add(0.69999), bar)
    assert "its top-1 of 69.999% is below min_top1, 70.000%" in text
    with_champion_version = model.add(0.7)
    model.promote(with_champion_version)
    assert "after 70.0000%" in model.promote(model.add(0.700001))


@pytest.mark.parametrize("stored", ["nan", "inf", "words"])
def test_figures_that_are_no_numbers_are_unknown(model, stored):
    with_champion(model)
    model.client.set_model_version_tag(model.name, "1", "val_top1", stored)
    assert "accuracy is not known" in model.promote(model.add(0.9))
    assert model.champion == "1"
