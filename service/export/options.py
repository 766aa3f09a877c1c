"""What an export is asked for, and what of it is refused; without torch, to answer at once."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from service.spec.errors import BadInputError, Problem
from service.spec.paths import absolute_path, new_file_problem, path_remedy

ONNX, PT2, SAFETENSORS, INT8 = FORMATS = ("onnx", "pt2", "safetensors", "int8")
INSIDE, OUTSIDE = PLACES = ("inside", "outside")
ENDINGS = {ONNX: ".onnx", INT8: "-int8.onnx", PT2: ".pt2", SAFETENSORS: ".safetensors"}
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
DEFAULT_MAX_DROP = 1.0


class FailedCheckError(RuntimeError):
    """An exported file does not answer as it must; the message has the figures."""


class ExportOptions(NamedTuple):
    """Options of an export; None of those that have a default is where they were not given.

    ``format``: of FORMATS. ``out``: the file to write. ``data``: a .beton whose images the check
    and the accuracy are computed on; by default the run's val. ``calibration``: one whose images
    the ranges of int8 are computed from; by default the run's train. ``normalization``: of PLACES.
    ``max_drop``: of top-1 in points, int8 below float32. ``max_images``: of ``data``, that the
    accuracies are computed on; by default all. ``opset``: of ONNX.
    """

    format: str
    out: Path
    data: Path | None = None
    calibration: Path | None = None
    normalization: str | None = None
    max_drop: float | None = None
    max_images: int | None = None
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


def check_options(options: ExportOptions) -> None:
    """Check what can be checked without the model.

    Raises:
        BadInputError: with every problem.
    """
    problems = _format_problems(options)
    if problem := new_file_problem("--out", options.out):
        problems.append(problem)
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
        "normalization": (ONNX, INT8, PT2),
    }
    problems = [
        Problem(
            f"--{name.replace('_', '-')}",
            f"is given, but --format is {options.format}",
            f"leave it out: it belongs to {' and '.join(formats)}",
        )
        for name, formats in belong_to.items()
        if getattr(options, name) is not None and options.format not in formats
    ]
    if options.normalization not in (None, *PLACES):
        remedy = f"give {' or '.join(PLACES)}"
        problems.append(Problem("--normalization", f"is {options.normalization!r}", remedy))
    if options.is_onnx:
        missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
        if missing:
            wrong = f"is {options.format}, which needs what is not installed: {', '.join(missing)}"
            problems.append(Problem("--format", wrong, "pip install 'dtkd-service[export]'"))
    return problems
