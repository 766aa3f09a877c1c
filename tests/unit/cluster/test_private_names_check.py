"""A Ray without one of the private names is refused at the start, with the releases that work."""

import pkgutil
import tomllib
from pathlib import Path

import pytest
import ray
from ray.tune.execution.tune_controller import TuneController

from service.cluster import address
from service.cluster.ray_internals import (
    NAMES,
    SUPPORTED,
    TRAINER,
    TUNE_CONTROLLER,
    check_ray,
    check_tune,
    make_trainer,
)
from service.spec.errors import BadInputError

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def test_this_ray_has_all_of_them_and_they_are_few():
    check_ray()
    check_tune()
    assert len(NAMES) <= 12
    assert all(name.get() is not None and name.instead for name in NAMES)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.path)
def test_each_one_that_is_gone_is_an_error(monkeypatch, name):
    module, _, attributes = name.path.partition(":")
    *owners, last = attributes.split(".")
    owner = pkgutil.resolve_name(f"{module}:{'.'.join(owners)}" if owners else module)
    # A method is its class's.
    monkeypatch.delattr(owner if last in vars(owner) else type(owner), last)

    check = check_tune if name is TUNE_CONTROLLER else address.check_address
    with pytest.raises(BadInputError) as caught:
        check()

    (problem,) = caught.value.problems
    assert ray.__version__ in problem.wrong
    assert name.path.replace(":", ".") in problem.wrong
    assert name.promise in problem.wrong
    assert SUPPORTED in problem.remedy


def test_attribute_that_is_only_assigned_to_is_an_error_if_it_is_gone(monkeypatch):
    monkeypatch.setattr(TuneController, "__init__", lambda _: None)
    with pytest.raises(BadInputError, match="_actor_force_cleanup_timeout"):
        check_tune()


def test_releases_are_those_of_the_package():
    dependencies = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    assert [d.partition("]")[2] for d in dependencies if d.startswith("ray[")] == [SUPPORTED]


def test_trainer_has_all_callbacks_of_rays_but_that_for_datasets():
    ours, rays = (
        [type(each).__name__ for each in make(print)._create_default_callbacks()]
        for make in (make_trainer, TRAINER.get())
    )
    assert "DatasetsCallback" in rays
    assert ours == [name for name in rays if name != "DatasetsCallback"]
