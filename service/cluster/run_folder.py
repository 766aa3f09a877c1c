"""The run's folder: whose it is, whether it is done, and what it may not become."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Container, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from service.files import write_atomically
from service.problems import BadInputError, Problem
from service.spec import JobSpec, differing_fields
from service.spec_fields import Section

SPEC_NAME = "spec.json"
TAGS_NAME = "tags.json"
LOCK_NAME = ".lock"


@contextlib.contextmanager
def claimed_run_folder(spec: JobSpec) -> Iterator[None]:
    """The folder of ``spec`` for this process alone, made or found made for an equal one.

    The claim ends with the process, however that ends.

    Raises:
        BadInputError: another job runs this spec, or the folder belongs to another spec, naming
            each field that differs, or it cannot be written.
    """
    with ExitStack() as resources:
        try:
            spec.run_path.mkdir(parents=True, exist_ok=True)
            lock = resources.enter_context((spec.run_path / LOCK_NAME).open("a+"))
            _claim(lock, spec)
            check_same_spec(spec)
            path = spec.run_path / SPEC_NAME
            if not path.exists():
                write_atomically(path, spec.model_dump_json(indent=1) + "\n")
        except OSError as error:
            problem = Problem(
                "checkpoints.storage_path",
                f"{spec.run_path}: {error.strerror}",
                "give a folder on storage that can be written and locked",
            )
            raise BadInputError("spec", [problem]) from error
        yield


def _claim(lock: TextIO, spec: JobSpec) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        problem = Problem(
            "name",
            f"the run {spec.name!r} is under way already, in {lock.read().strip()}",
            "wait for it or stop it; then the same spec goes on where it is",
        )
        raise BadInputError("spec", [problem]) from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()


def check_same_spec(spec: JobSpec) -> None:
    """Refuse a changed spec under the name of a run that exists: it would be gone on with.

    Raises:
        BadInputError: naming each field that differs.
    """
    path = spec.run_path / SPEC_NAME
    if path.exists():
        old = JobSpec.model_validate_json(path.read_text())
        if problems := differences(old, spec, path, f"the run {spec.name!r}"):
            raise BadInputError("spec", problems)


def differences(
    old: Section, new: Section, path: Path, owner: str, changeable: Container[str] = ()
) -> list[Problem]:
    """Each field in which a spec differs from that of its ``owner``, whose name it has.

    ``path``: where the owner's is kept. ``changeable``: sections and fields that may differ.
    """
    remedy = f"take another name, or restore the field as {path} has it"
    return [
        Problem(field, f"differs from {owner} that exists already", remedy)
        for field in differing_fields(old, new)
        if field.split(".")[0] not in changeable
    ]
