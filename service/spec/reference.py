"""The reference of spec fields, printed for people as a table and for editors as a JSON schema."""

import json
import textwrap
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

WIDTHS = {"field": 49, "default": 19, "unit": 6, "meaning": 40}
"""Columns of the table, in characters."""
UNITS = {
    "_s": "s",
    "_minutes": "min",
    "_bytes": "bytes",
    "from_epoch": "epoch",
    "_epochs": "epochs",
    "milestones": "epochs",
    ".epochs": "epochs",
    ".hours": "h",
    "_steps": "steps",
    "_images": "images",
    "batch_size": "images",
    "size": "px",
    "padding": "px",
}
"""Units by how a field's name ends; the first that fits."""


class FieldEntry(NamedTuple):
    """One field: its dotted path, its default as JSON, and what it means."""

    path: str
    default: str
    description: str

    @property
    def unit(self) -> str:
        """The unit of its values; empty for what has none."""
        return next((unit for end, unit in UNITS.items() if self.path.endswith(end)), "")


def format_fields(model: type[BaseModel]) -> str:
    """Every field of a spec with its default, its unit and its meaning, as a table."""
    lines = [_row(WIDTHS), _row(["-" * width for width in WIDTHS.values()])]
    for entry in fields_of(model):
        cells = (entry.path, entry.default, entry.unit, entry.description)
        columns = map(_wrapped, cells, WIDTHS.values())
        lines += map(_row, zip_longest(*columns, fillvalue=""))
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _row(cells: Iterable[str]) -> str:
    padded = (f"{cell:{width}}" for cell, width in zip(cells, WIDTHS.values(), strict=True))
    return "  ".join(padded).rstrip()


def json_schema(model: type[BaseModel]) -> str:
    """The JSON schema of a spec, with descriptions and defaults."""
    return json.dumps(model.model_json_schema(), indent=1)


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[FieldEntry]:
    """The fields of a section and of the sections within it, in order.

    ``[kind]`` in a path marks alternatives, ``[]`` the entries of a list, ``<key>`` those of a
    mapping. A spec within the spec, with a version of its own, is not expanded.
    """
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        nested = list(nested_sections(field.annotation))
        description = field.description or _first_line([section for _, section in nested])
        yield FieldEntry(path, _default(field), " ".join(description.split()))
        for suffix, section in nested:
            if "schema_version" in section.model_fields:
                continue
            kind = section.model_fields.get("kind")
            marker = f"[{get_args(kind.annotation)[0]}]" if len(nested) > 1 and kind else ""
            yield from fields_of(section, f"{path}{marker}{suffix}.")


def nested_sections(annotation: Any, suffix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:  # noqa: ANN401 - any annotation
    """The sections that a field may hold, each with the suffix of its path."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield suffix, annotation
    elif origin is Annotated:
        yield from nested_sections(arguments[0], suffix)
    elif origin is dict:
        yield from nested_sections(arguments[1], ".<key>")
    else:
        for argument in arguments:
            yield from nested_sections(argument, "[]" if origin is tuple else suffix)


def _first_line(sections: list[type[BaseModel]]) -> str:
    return next(((section.__doc__ or "").split("\n")[0] for section in sections), "")


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "see below"
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "absent"
    if isinstance(field.default, dict) and field.default:
        return "see below"
    return "defaults below" if isinstance(field.default, BaseModel) else json.dumps(field.default)
