"""How a run computes: what the "auto" of its spec was found to mean, and where that is stored.

It is decided once, before the first step, and stored in the run's folder: what a resumed run and
its other workers computed otherwise would not be the same, bit for bit. What another run of the
same storage path found out about the same networks, sizes and machine is used again, so that the
runs of a sweep or of a comparison differ in what they are meant to differ in.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import with_config

from data_pipeline.files import partial_name, write_atomically
from service.run.state_files import WITHOUT_OTHER_FIELDS, read_if_usable, read_state
from service.spec.job import JobSpec

EXECUTION_NAME = "execution.json"
"""In the run's folder."""
FOLDER_NAME = ".execution"
"""Folder of the storage path; a file's name is the digest of all that its decision depends on."""

NumberFormat = Literal["float32", "bfloat16", "float16"]


@with_config(WITHOUT_OTHER_FIELDS)
@dataclass(frozen=True)
class StudentForm:
    """How the student is trained.

    ``precision``: of forward passes. ``is_compiled``: by torch.compile.
    """

    precision: NumberFormat
    is_compiled: bool = False


@with_config(WITHOUT_OTHER_FIELDS)
@dataclass(frozen=True)
class TeacherForm:
    """How the teacher's logits are computed.

    ``kind``: plain, the network as it is; folded, BatchNorm is part of the convolutions; compiled,
    this by torch.compile. ``is_cast``: whether its weights are stored in the precision, instead of
    being converted in each forward pass (autocast); the last layer's are float32 in any case.
    ``precision``: of forward passes; the student's, unless runs share the logits through a cache.
    """

    kind: Literal["compiled", "folded", "plain"] = "plain"
    is_cast: bool = False
    precision: NumberFormat = "float32"


@with_config(WITHOUT_OTHER_FIELDS)
@dataclass(frozen=True)
class Execution:
    """How a run computes: see ``StudentForm`` and ``TeacherForm``.

    ``matmul_precision``: see the field of the spec.
    """

    precision: NumberFormat
    compile_student: bool = False
    teacher_form: Literal["compiled", "folded", "plain"] = "plain"
    cast_teacher: bool = False
    matmul_precision: Literal["highest", "high"] = "highest"
    teacher_precision: NumberFormat = "float32"

    @classmethod
    def of(cls, student: StudentForm, teacher: TeacherForm, spec: JobSpec) -> "Execution":
        """What was decided about both networks of ``spec``."""
        return cls(
            student.precision,
            student.is_compiled,
            teacher.kind,
            teacher.is_cast,
            spec.training.matmul_precision,
            teacher.precision,
        )

    @property
    def teacher(self) -> TeacherForm:
        """How the teacher's logits are computed."""
        return TeacherForm(self.teacher_form, self.cast_teacher, self.teacher_precision)

    @classmethod
    def plain(cls, spec: JobSpec) -> "Execution":
        """Without what is to be found out: auto means float32, the networks are as they are."""
        precision = spec.training.precision
        student = StudentForm("float32" if precision == "auto" else precision)
        return cls.of(student, TeacherForm(precision=student.precision), spec)

    def as_json(self) -> dict[str, Any]:
        """As JSON data, such as for a key."""
        return dataclasses.asdict(self)


Stored = TypeVar("Stored", StudentForm, TeacherForm)


def read_execution(run_path: Path) -> Execution | None:
    """What the run has stored; None before its first step.

    Raises:
        BadInputError: it is damaged.
        OSError: the storage fails.
    """
    remedy = "restore the file, or use another name: the run would go on with other arithmetic"
    return read_state(run_path / EXECUTION_NAME, Execution, remedy)


def write_execution(run_path: Path, execution: Execution) -> None:
    """Store it in the run's folder.

    Raises:
        OSError: the storage fails.
    """
    write_atomically(run_path / EXECUTION_NAME, _text(execution))


def precision_text(spec: JobSpec) -> str:
    """The precision that a run's forward passes have, for people; auto before it is decided."""
    path = spec.run_path / EXECUTION_NAME
    found = read_if_usable(path, Execution) if spec.training.precision == "auto" else None
    return found.precision if found is not None else spec.training.precision


def shared_decision(
    folder: Path,
    identity: Mapping[str, Any],
    kind: type[Stored],
    decide: Callable[[], Stored],
) -> tuple[Stored, bool]:
    """What the first run with this ``identity`` decides, and whether that was an earlier one.

    ``folder`` is shared by those runs. ``identity``: JSON data with all that the decision depends
    on. Where two decide at the same time, both use what was stored first.

    Raises:
        OSError: the storage fails.
    """
    content = json.dumps({"kind": kind.__name__, **identity}, sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()
    path = folder / FOLDER_NAME / f"{digest}.json"
    if path.parent.is_symlink():
        # Somebody has put it there: what is behind it is neither read nor written.
        return decide(), False
    earlier = read_if_usable(path, kind)
    if earlier is not None:
        return earlier, True
    decided = decide()
    path.parent.mkdir(parents=True, exist_ok=True)
    return _first_stored(path, kind, decided)


def _first_stored(path: Path, kind: type[Stored], decided: Stored) -> tuple[Stored, bool]:
    """Store what was decided, unless another process was faster: then, what that has decided."""
    own = partial_name(path)
    write_atomically(own, _text(decided))
    try:
        # A link is made by one process only, and its file is complete. Storage without links has
        # the last decision of those that are made at the same time.
        with contextlib.suppress(OSError):
            os.link(own, path, follow_symlinks=False)
            return decided, False
        earlier = read_if_usable(path, kind)
        if earlier is not None:
            return earlier, True
        own.replace(path)
        return decided, False
    finally:
        own.unlink(missing_ok=True)


def _text(stored: StudentForm | TeacherForm | Execution) -> str:
    return json.dumps(dataclasses.asdict(stored), indent=1) + "\n"
