"""Values must have the types of their fields, as the JSON schema states them."""

import pytest
from pydantic import ValidationError

from service.compare.spec import CompareSpec
from service.spec.job import JobSpec
from service.spec.reference import nested_sections
from service.sweep.spec import Parameter, SweepSpec

WRONG = {"string": ["1", "yes", "true"], "boolean": [True, False], "number": [0, 1, 2.0]}


def sections_of(model):
    """A section and all within it, each once."""
    found = {model}
    for field in model.model_fields.values():
        for _, section in nested_sections(field.annotation):
            found |= sections_of(section)
    return found


SECTIONS = sorted(
    sections_of(JobSpec) | sections_of(SweepSpec) | sections_of(CompareSpec),
    key=lambda section: section.__name__,
)


def alternatives(schema, definitions):
    """The schemas of which a value must match one."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    inner = [*schema.get("anyOf", []), *schema.get("oneOf", [])]
    if not inner:
        return [schema]
    return [one for each in inner for one in alternatives(each, definitions)]


def wrong_values(schema, definitions):
    """Values of JSON types that a schema does not have; also as elements of its arrays."""
    found = alternatives(schema, definitions)
    if any("type" not in one for one in found):
        return
    types = {"number" if one["type"] == "integer" else one["type"] for one in found}
    for kind in WRONG.keys() - types:
        yield from WRONG[kind]
    for one in found:
        items = one.get("prefixItems") or [one.get("items")] * max(1, one.get("minItems", 1))
        if one["type"] == "array" and items[0] is not None:
            yield from ([value] * len(items) for value in wrong_values(items[0], definitions))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_values_of_other_types_are_refused(section):
    schema = definition(section.model_json_schema())
    # True equals 1, the only version.
    for name in section.model_fields.keys() - {"schema_version"}:
        for value in wrong_values(schema["properties"][name], schema.get("$defs", {})):
            with pytest.raises(ValidationError) as caught:
                section.model_validate({name: value})
            places = {error["loc"][0] for error in caught.value.errors()}
            assert name in places, f"{section.__name__}.{name} accepts {value!r}"


def definition(schema):
    """The schema of a section, which is among its own definitions if it refers to itself."""
    if "$ref" not in schema:
        return schema
    return {**schema["$defs"][schema["$ref"].rpartition("/")[2]], "$defs": schema["$defs"]}


def test_integers_are_numbers_and_lists_are_tuples():
    assert Parameter.model_validate({"log": [1, 8]}) == Parameter(log=(1.0, 8.0))


def test_walk_has_the_fields_that_users_get_wrong():
    """Among them, one in each kind of spec."""
    for section, name, kinds in (
        (CompareSpec, "seeds", [["1"], [True]]),
        (SweepSpec, "progress_interval_s", ["1", True]),
        (JobSpec, "seed", ["1", True]),
    ):
        schema = section.model_json_schema()
        found = list(wrong_values(schema["properties"][name], schema["$defs"]))
        assert all(value in found for value in kinds)
