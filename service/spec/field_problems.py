"""Problems in the fields of a spec, in this service's form: in the words of JSON, with remedies."""

import json
import re
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from data_pipeline.uris import redacted
from service.spec.errors import MAX_PROBLEMS, Problem
from service.spec.fields import PATTERN_REMEDIES
from service.spec.losses.temperatures import TEMPERATURE_KINDS
from service.spec.optimization import STATE_TENSORS
from service.spec.suggestions import kinds_with, nearest_field, nearest_value, sections_at

MAX_VALUE_LENGTH = 100
TYPE_REMEDIES = {
    "dict_type": "give an object, such as {}",
    "tuple_type": "give a list, such as []",
    "list_type": "give a list, such as []",
    "int_type": "give an integer, without quotes",
    "int_from_float": "give an integer",
    "float_type": "give a number, without quotes",
    "finite_number": "give a finite number",
    "bool_type": "give true or false, without quotes",
    "string_type": "give a text in quotes",
    "path_type": "give a path in quotes",
}
OTHER_CHOICES = {
    "size": ", or a number of pixels",
    "keep": ', or {"top_k": ...}',
    "checkpoints": ", or an object with every_evaluations, newest and only_best",
    "classes": ", or a list: the teacher's index of each class of the dataset, in label order",
}
"""What a field takes besides its words."""
OPTIMIZER_KINDS = tuple(STATE_TENSORS)
ADDED_PARTS = (
    *OPTIMIZER_KINDS,
    *("number", "range", "word", "indices", "pixels", "section", "[key]"),
)
"""What pydantic adds to a location where a field has alternatives, and to that of the name of a
mapping's entry; the user did not write it."""


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """What pydantic found in the content of a ``model``, in this service's form."""
    details = [
        detail
        for detail in error.errors(include_url=False)
        # A default that depends on a field which has a problem of its own.
        if detail["type"] != "default_factory_not_called"
    ]
    # Suggestions take time, and more problems are not listed.
    problems = [_problem_of(detail, model) for detail in details[:MAX_PROBLEMS]]
    return problems + [
        Problem(_where(detail), "is not valid", detail["msg"]) for detail in details[MAX_PROBLEMS:]
    ]


def _parts(detail: ErrorDetails) -> list[int | str]:
    """The keys and indices in the spec that lead to a problem."""
    location = detail["loc"]
    return [
        part
        for parent, part in zip(("", *location), location, strict=False)
        if part not in ADDED_PARTS and not (parent == "temperature" and part in TEMPERATURE_KINDS)
    ]


def _where(detail: ErrorDetails) -> str:
    return ".".join(map(str, _parts(detail))) or "$"


def _problem_of(detail: ErrorDetails, model: type[BaseModel]) -> Problem:
    parts = _parts(detail)
    where = _where(detail)
    if detail["type"] == "missing":
        return Problem(where, "is missing", "it has no default and must be given")
    if detail["type"] == "extra_forbidden":
        return _unknown_field(model, parts, _kind_of(detail))
    if detail["type"] == "union_tag_invalid":
        # A number, which may take the place of sections, has no kind.
        *kinds, last = detail["ctx"]["expected_tags"].removeprefix("'number', ").split(", ")
        expected = " or ".join([", ".join(kinds), last] if kinds else [last])
        if not (isinstance(detail["input"], Mapping) and "kind" in detail["input"]):
            return Problem(f"{where}.kind", "is missing", f"use {expected}")
        return _choice_problem(f"{where}.kind", detail["input"]["kind"], expected)
    if detail["type"] == "literal_error":
        is_word = detail["loc"][-1] == "word"
        others = OTHER_CHOICES.get(str(parts[-1]), "") if is_word else ""
        return _choice_problem(where, detail["input"], detail["ctx"]["expected"], others)
    remedy = _value_remedy(detail)
    if detail["type"] in ("model_type", "model_attributes_type"):
        remedy = f"give an object, such as {_smallest_object(model, parts)}"
    return Problem(where, f"is {_value(detail['input'])}", remedy)


def _kind_of(detail: ErrorDetails) -> str | None:
    """The kind of the section that has the problem, where there are alternatives."""
    parent = str(detail["loc"][-2]) if len(detail["loc"]) > 1 else None
    return parent if parent in (*OPTIMIZER_KINDS, *TEMPERATURE_KINDS) else None


def _unknown_field(model: type[BaseModel], parts: Sequence[int | str], kind: str | None) -> Problem:
    """A field that does not exist, or that sections of another ``kind`` have."""
    where, section = ".".join(map(str, parts)), ".".join(map(str, parts[:-1]))
    others = kinds_with(model, parts) if kind is not None else []
    if not others:
        return Problem(where, "is not a field of the spec", field_remedy(model, parts, kind))
    wrong = f"is a field of kind {' and '.join(others)}, not of {kind}"
    remedy = f"remove it, or set {section}.kind to {' or '.join(map(repr, others))}"
    return Problem(where, wrong, remedy)


def _smallest_object(model: type[BaseModel], parts: Sequence[int | str]) -> str:
    """The fields that a section must have, without their values; {} where there may be several."""
    sections = sections_at(model, list(map(str, parts)))
    fields = sections[0].model_fields if len(sections) == 1 else {}
    required = {name: "..." for name, field in fields.items() if field.is_required()}
    return json.dumps(required)


def _value_remedy(detail: ErrorDetails) -> str:
    """What to do about a value of another type, or out of the range, of its field."""
    kind, limits = detail["type"], detail.get("ctx", {})
    if kind in TYPE_REMEDIES:
        return TYPE_REMEDIES[kind]
    if kind == "string_pattern_mismatch":
        return PATTERN_REMEDIES[limits["pattern"]]
    if kind == "string_too_short":
        return "give a text that is not empty"
    if kind in ("too_short", "too_long"):
        count = limits["min_length"] if kind == "too_short" else limits["max_length"]
        bound = "least" if kind == "too_short" else "most"
        return f"give at {bound} {count} {'entry' if count == 1 else 'entries'}"
    message = detail["msg"]
    if kind.startswith(("greater_than", "less_than")):
        return message.replace("Input should be", "give a number")
    return message[0].lower() + message[1:]


def _value(value: object) -> str:
    """A value as JSON has it, without the middle of a long one."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    text = redacted(text)
    if len(text) > MAX_VALUE_LENGTH:
        text = f"{text[: MAX_VALUE_LENGTH // 2]} ... {text[-MAX_VALUE_LENGTH // 2 :]}"
    return text


def field_remedy(
    model: type[BaseModel], location: Sequence[str | int], kind: str | None = None
) -> str:
    """What to do about a field that does not exist; ``location``: the keys that lead to it.

    ``kind``: of the section, where there are alternatives.
    """
    nearest = nearest_field(model, location, kind)
    return "remove it or fix its name" if nearest is None else f"did you mean {nearest}?"


def _choice_problem(where: str, value: object, expected: str, others: str = "") -> Problem:
    """``expected``: the choices as pydantic writes them, such as 'sgd' or 'adamw'."""
    choices = re.findall(r"'([^']*)'", expected)
    nearest = nearest_value(value, choices) if len(choices) > 1 else None
    hint = "" if nearest is None else f"; did you mean {nearest!r}?"
    return Problem(where, f"is {_value(value)}", f"use {expected}{others}{hint}")
