"""What the command line says about a model beside its source."""

import argparse
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from data_pipeline.uris import has_secret, secret_remedy
from service.spec.secrets import WRONG

MIN_SIZE, MAX_SIZE = 8, 2048
Channels = tuple[float, float, float]


class ModelOptions(NamedTuple):
    """Options about a model; those that are None say nothing, and its source decides.

    ``argument``: the name of the argument with the source, for errors. ``prefix``: what the names
    of these options begin with, for errors too. ``weights``: of a network given by its name, a
    file or torchvision:ENUM. ``key``, ``match``, ``rename``: as of a spec's weights. ``resize``,
    ``crop``: in pixels. ``mean``, ``std``: per channel, on the scale 0 to 1.
    """

    argument: str = "MODEL"
    prefix: str = "--"
    weights: str | None = None
    architecture: str | None = None
    num_classes: int | None = None
    key: str | None = None
    match: Literal["names", "order"] = "names"
    rename: tuple[tuple[str, str], ...] = ()
    resize: int | None = None
    crop: int | None = None
    mean: Channels | None = None
    std: Channels | None = None

    def where(self, name: str) -> str:
        """An option as it is written on the command line."""
        return f"{self.prefix}{name.replace('_', '-')}"

    @property
    def given(self) -> list[str]:
        """The options that are not their defaults."""
        names = self._fields[self._fields.index("weights") :]
        return [name for name in names if getattr(self, name) != self._field_defaults[name]]


def add_model_options(parser: argparse.ArgumentParser, argument: str, prefix: str = "--") -> None:
    """Add the options of a model to a parser; ``argument``, ``prefix``: see ``ModelOptions``."""
    group = parser.add_argument_group(f"{argument}, where it does not say this itself")
    for name, metavar, text in (
        ("weights", "FILE", "weights of a network's name: a file, or torchvision:ENUM"),
        ("architecture", "NAME", "network of a file of weights, such as resnet18 or timm:NAME"),
        ("key", "NAME", "which weights of the file, such as state_dict_ema"),
    ):
        group.add_argument(f"{prefix}{name}", type=source_argument, metavar=metavar, help=text)
    group.add_argument(
        f"{prefix}num-classes", type=whole_number(2), metavar="N", help="classes of the network"
    )
    group.add_argument(
        f"{prefix}match",
        choices=("names", "order"),
        default="names",
        help="how tensors of a .pth file belong to the network's (default: names)",
    )
    group.add_argument(
        f"{prefix}rename",
        type=_renamed,
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="replace parts of the names of the file's tensors",
    )
    pixels = whole_number(MIN_SIZE, MAX_SIZE)
    for name, text in (
        ("resize", "length of the shorter side"),
        ("crop", "side of the center crop"),
    ):
        help_text = f"{text}, in pixels"
        group.add_argument(f"{prefix}{name}", type=pixels, metavar="PX", help=help_text)
    for name, kind in (("mean", _mean), ("std", _std)):
        channels, text = ("R", "G", "B"), f"{name} that images are normalized with, from 0 to 1"
        group.add_argument(f"{prefix}{name}", type=kind, nargs=3, metavar=channels, help=text)


def model_options(options: argparse.Namespace, argument: str, prefix: str = "--") -> ModelOptions:
    """The options that ``add_model_options`` added."""
    start = prefix.removeprefix("--").replace("-", "_")
    own = {
        name: getattr(options, f"{start}{name}")
        for name in ModelOptions._fields
        if name not in ("argument", "prefix")
    }
    channels = {name: tuple(own[name]) for name in ("mean", "std") if own[name] is not None}
    return ModelOptions(argument, prefix, **{**own, **channels, "rename": tuple(own["rename"])})


def source_argument(text: str) -> str:
    """A model's source, or another text that names one.

    Raises:
        argparse.ArgumentTypeError: it is empty, or a URI with a secret.
    """
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    if has_secret(text):
        raise argparse.ArgumentTypeError(f"{WRONG}; {secret_remedy(text)}")
    return text


def _renamed(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not old or not equals:
        raise argparse.ArgumentTypeError(f"is {text!r}; give OLD=NEW, such as head.fc=fc")
    return old, new


def whole_number(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """The type of an argument that is a whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text[:11]) <= high:
            wrong = f"is {text!r}; give a whole number from {low} to {high}"
            raise argparse.ArgumentTypeError(wrong)
        return int(text)

    return parse


def _mean(text: str) -> float:
    return _number(text, 0.0)


def _std(text: str) -> float:
    return _number(text, math.ulp(0.0))


def _number(text: str, low: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= 1.0:
        above = "0" if low == 0.0 else "more than 0"
        raise argparse.ArgumentTypeError(f"is {text!r}; give a number from {above} to 1")
    return value
