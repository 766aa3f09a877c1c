"""The base class of a spec's sections, and the types of their numbers."""

import re
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
ImageSize = Annotated[int, Field(ge=8, le=1024)]
Share = Annotated[float, Field(gt=0, le=1)]
Location = Annotated[str, Field(min_length=1)]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
SHORT_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"
NAME_REMEDY = "use 1 to {} letters, digits, dots, _ and -, of which the first is a letter or digit"
PATTERN_REMEDIES = {
    NAME_PATTERN: NAME_REMEDY.format(100),
    SHORT_NAME_PATTERN: NAME_REMEDY.format(40),
    SHA256_PATTERN: "give 64 hexadecimal digits in lower case",
}
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
ShortName = Annotated[str, Field(pattern=SHORT_NAME_PATTERN)]
Sha256 = Annotated[str, Field(pattern=SHA256_PATTERN)]

URI_START = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

T = TypeVar("T")
# JSON has neither tuples nor paths.
Items = Annotated[tuple[T, ...], Field(strict=False)]
Pair = Annotated[tuple[T, T], Field(strict=False)]
Triple = Annotated[tuple[T, T, T], Field(strict=False)]


def _folder(value: object) -> object:
    """Refuse what would be a folder of another meaning: the current one, or one named s3:."""
    if value == "":
        raise PydanticCustomError("folder", "give a folder, . for the current one")
    if isinstance(value, str) and URI_START.match(value):
        raise PydanticCustomError("folder", "give a folder of a file system, not an address")
    return value


FolderPath = Annotated[Path, Field(strict=False), BeforeValidator(_folder)]


class Section(BaseModel):
    """Base of all sections: immutable, without unknown fields and numbers that are not finite.

    Values must have the types of their fields: "2" and true are no numbers.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
