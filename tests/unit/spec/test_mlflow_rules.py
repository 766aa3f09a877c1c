"""The rules for MLflow's names, against MLflow's own validators."""

import itertools
import json

import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel
from mlflow.store.tracking.dbmodels.models import SqlExperiment
from mlflow.utils import validation

from service.spec import mlflow_rules
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.sweep.loading import parse_sweep

PARTS = ["", "a", "Z", "9", "v", "V", "latest", "LaTest", ".", "..", "/", ":", "'", '"', "`", "\\"]
PARTS += [" ", "-", "_", "%", "@", "#", "é", "日", "\n", "1"]
NAMES = {"".join(parts) for parts in itertools.product(PARTS, repeat=3)}
NAMES |= {"x" * length for length in (249, 250, 255, 256, 257, 500, 501)}


def is_accepted(*validators):
    def check(name):
        try:
            for validator in validators:
                validator(name)
        except MlflowException:
            return False
        return True

    return check


@pytest.mark.parametrize(
    ("find_problem", "validators", "limit"),
    [
        (
            mlflow_rules.registered_model_problem,
            [validation._validate_model_name],
            SqlRegisteredModel.name.type.length,
        ),
        (
            mlflow_rules.experiment_problem,
            [validation._validate_experiment_name],
            SqlExperiment.name.type.length,
        ),
        (
            mlflow_rules.alias_problem,
            [
                validation._validate_model_alias_name,
                validation._validate_model_alias_name_reserved,
            ],
            validation.MAX_REGISTERED_MODEL_ALIAS_LENGTH,
        ),
    ],
)
def test_names_are_judged_as_mlflow_judges_them(find_problem, validators, limit):
    accepts = is_accepted(*validators)
    for name in NAMES:
        # A line break at the end of an alias is overlooked by MLflow's regular expression.
        is_overlooked = name.endswith("\n") and find_problem is mlflow_rules.alias_problem
        # In a log or on a page such a name is another one; MLflow accepts it.
        is_unclear = "\n" in name and find_problem is mlflow_rules.registered_model_problem
        is_refused = is_overlooked or is_unclear
        expected = accepts(name) and len(name) <= limit and not is_refused
        assert (find_problem(name) is None) == expected, repr(name)


def test_limits_of_values_are_mlflows():
    assert mlflow_rules.MAX_TAG_LENGTH == validation.MAX_TAG_VAL_LENGTH
    assert mlflow_rules.MAX_PARAM_LENGTH == validation.MAX_PARAM_VAL_LENGTH


@pytest.mark.parametrize(
    ("tracking", "field"),
    [
        ({"register_as": "r18", "promote": {"alias": "latest"}}, "tracking.promote.alias"),
        ({"register_as": "r18", "promote": {"alias": "V12"}}, "tracking.promote.alias"),
        ({"register_as": "a/b"}, "tracking.register_as"),
        ({"register_as": ".."}, "tracking.register_as"),
        ({"experiment": ""}, "tracking.experiment"),
        ({"experiment": "x" * 257}, "tracking.experiment"),
    ],
)
def test_name_that_mlflow_refuses_is_a_problem_of_the_spec(
    make_content, make_sweep_content, tracking, field
):
    with pytest.raises(BadInputError) as error:
        parse_spec(make_content(tracking=tracking))
    assert [problem.where for problem in error.value.problems] == [field]
    with pytest.raises(BadInputError) as error:
        parse_sweep(make_sweep_content(base={"tracking": tracking}))
    assert [problem.where for problem in error.value.problems] == [f"base.{field}"]


@pytest.mark.parametrize(
    "source",
    ["models:/x", "models:/x/latest", "models:/x/Production", "models:/", "runs:/", "runs://a/b"],
)
def test_incomplete_address_of_weights_is_a_problem(make_content, source):
    teacher = {"model": "cifar:resnet8", "weights": {"source": source}}
    with pytest.raises(BadInputError) as error:
        parse_spec(make_content(teacher=teacher))
    assert [problem.where for problem in error.value.problems] == ["teacher.weights.source"]
    assert "models:/NAME@ALIAS" in error.value.problems[0].remedy


def test_network_of_a_weights_file_is_known_before_torch_is(make_content, tmp_path):
    """A student of this service says which network it is, and in which order its classes are."""
    header = {
        "__metadata__": {"architecture": "cifar:resnet20", "num_classes": "4", "classes": "null"},
        "fc.bias": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "student.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    weights = {"source": str(path)}
    with pytest.raises(BadInputError, match=r"weights of cifar:resnet20, but the model is cifar"):
        parse_spec(make_content(teacher={"model": "cifar:resnet8", "weights": weights}))
    parse_spec(make_content(teacher={"model": "cifar:resnet20", "weights": weights}))
    renamed = {**weights, "rename": [["stem", "conv1"]]}
    parse_spec(make_content(teacher={"model": "cifar:resnet8", "weights": renamed}))
