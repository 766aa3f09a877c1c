"""What an export is asked for, and what of it is refused; without torch, to answer at once."""

import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from service.spec.errors import BadInputError, Problem
from service.spec.paths import absolute_path, new_file_problem, path_remedy
from service.spec.secrets import path_argument

ONNX, PT2, SAFETENSORS, INT8 = FORMATS = ("onnx", "pt2", "safetensors", "int8")
INSIDE, OUTSIDE = PLACES = ("inside", "outside")
ENDINGS = {ONNX: ".onnx", INT8: "-int8.onnx", PT2: ".pt2", SAFETENSORS: ".safetensors"}
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
DEFAULT_MAX_DROP = 1.0
ARGUMENT, BY_NAME = "RUN", "by_name"
OPSETS = range(18, 24)
"""Of ONNX, those that torch.onnx writes from what torch.export traces."""


class FailedCheckError(RuntimeError):
    """An exported file does not answer as it must; the message has the figures and a remedy."""

    def __init__(self, where: str, wrong: str, remedy: str):
        super().__init__(str(Problem(where, wrong, remedy)))


class ExportOptions(NamedTuple):
    """Options of an export; None of those that have a default is where they were not given.

    ``format``: of FORMATS. ``out``: the file to write. ``data``: a .beton whose images the check
    and the accuracy are computed on; by default the run's val. ``calibration``: one whose images
    the ranges of int8 are computed from; by default the run's train. ``normalization``: of PLACES.
    ``max_drop``: of top-1 in points, int8 below float32. ``max_images``: of ``data``, that the
    accuracies are computed on; by default all. ``classes``: BY_NAME where ``data`` has only some of
    the network's classes, or the same in another order. ``opset``: of ONNX.
    """

    format: str
    out: Path
    data: Path | None = None
    calibration: Path | None = None
    normalization: str | None = None
    max_drop: float | None = None
    max_images: int | None = None
    classes: str | None = None
    opset: int | None = None

    @property
    def has_graph(self) -> bool:
        """Whether the file has the network's operations, not its weights alone."""
        return self.format != SAFETENSORS

    @property
    def is_onnx(self) -> bool:
        """Whether onnxruntime runs the file."""
        return self.format in (ONNX, INT8)

    @property
    def normalizes(self) -> bool:
        """Whether the file's network normalizes its input itself."""
        return self.has_graph and self.normalization != OUTSIDE

    @property
    def allowed_drop(self) -> float:
        """The largest drop of top-1 that is accepted, in points."""
        return DEFAULT_MAX_DROP if self.max_drop is None else self.max_drop

    def with_absolute_paths(self) -> "ExportOptions":
        """The same with paths from the root, with ~ replaced."""
        return self._replace(
            out=absolute_path(self.out),
            data=self.data and absolute_path(self.data),
            calibration=self.calibration and absolute_path(self.calibration),
        )


def default_out(source: str, file_format: str) -> Path:
    """A file in the current folder, named after the model: its run, file, or name in MLflow."""
    scheme, is_address, address = source.rstrip("/").partition(":/")
    if is_address and scheme == "models":
        name = address.strip("/")
    else:
        name = Path(source).name.removesuffix(".safetensors").removesuffix(".pth")
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "student"
    return Path(stem + ENDINGS.get(file_format, ""))


def new_file(text: str) -> Path:
    """The path of a file in an argument.

    Raises:
        argparse.ArgumentTypeError: it is a folder, by its name, or a URI with a secret.
    """
    if text.endswith("/"):
        raise ArgumentTypeError(f"is {text!r}, a folder; give the path of a file in it")
    return path_argument(text)


def check_options(options: ExportOptions) -> None:
    """Check what can be checked without the model.

    Raises:
        BadInputError: with every problem.
    """
    problems = _format_problems(options)
    if problem := new_file_problem("--out", options.out):
        problems.append(problem)
    elif options.format == PT2 and options.out.suffix != ENDINGS[PT2]:
        wrong = f"is {options.out.name}, and torch warns of a pt2 file with another ending"
        problems.append(Problem("--out", wrong, f"end its name with {ENDINGS[PT2]}"))
    for name in ("data", "calibration"):
        path = getattr(options, name)
        if path is not None and not absolute_path(path).is_file():
            remedy = path_remedy(path, "the path of a .beton file")
            problems.append(Problem(f"--{name}", f"{absolute_path(path)} is no file", remedy))
    if problems:
        raise BadInputError("arguments", problems)


def _format_problems(options: ExportOptions) -> list[Problem]:
    if options.format not in FORMATS:
        wrong = f"is {options.format!r}, which is no format"
        return [Problem("--format", wrong, f"give one of {', '.join(FORMATS)}")]
    belong_to = {
        "opset": (ONNX, INT8),
        "calibration": (INT8,),
        "max_drop": (INT8,),
        "max_images": (INT8,),
        "classes": (INT8,),
        "normalization": (ONNX, INT8, PT2),
    }
    problems = [
        Problem(
            f"--{name.replace('_', '-')}",
            f"is given, but --format is {options.format}",
            f"leave it out: it is for {_listed(formats)}",
        )
        for name, formats in belong_to.items()
        if getattr(options, name) is not None and options.format not in formats
    ]
    if options.opset is not None and options.is_onnx and options.opset not in OPSETS:
        wrong = f"is {options.opset}, which torch does not write"
        remedy = f"give one from {OPSETS[0]} to {OPSETS[-1]}, or leave it out"
        problems.append(Problem("--opset", wrong, remedy))
    if options.normalization not in (None, *PLACES):
        remedy = f"give {' or '.join(PLACES)}"
        problems.append(Problem("--normalization", f"is {options.normalization!r}", remedy))
    if options.is_onnx:
        missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
        if missing:
            wrong = f"is {options.format}, which needs what is not installed: {', '.join(missing)}"
            problems.append(Problem("--format", wrong, "pip install 'dtkd-service[export]'"))
    return problems


def _listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: a, b and c."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
