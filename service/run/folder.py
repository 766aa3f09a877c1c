"""The run's folder: which spec it belongs to, which job holds it, and which worker may write."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import uuid
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from data_pipeline.files import retry_io, write_atomically
from service.spec.errors import BadInputError, Problem
from service.spec.fields import Section
from service.spec.job import JobSpec, differing_fields

SPEC_NAME = "spec.json"
TAGS_NAME = "tags.json"
LOCK_NAME = ".lock"
FENCE_NAME = ".fencing_token"


@contextlib.contextmanager
def claim_run_folder(spec: JobSpec) -> Iterator[None]:
    """Hold the folder of ``spec`` for this process alone; it is created if it does not exist.

    The lock is released with the context, or by the kernel when the process ends. The folder
    belongs to the spec once ``write_spec`` was called; before that, leaving the context removes it.

    Raises:
        BadInputError: another job holds the folder, it belongs to another spec (naming each field
            that differs), or it cannot be written.
    """
    is_new = not spec.run_path.exists()
    with ExitStack() as stack:
        try:
            spec.run_path.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((spec.run_path / LOCK_NAME).open("a+"))
            _lock(lock, spec)
            check_same_spec(spec)
        except OSError as error:
            problem = Problem(
                "checkpoints.storage_path",
                f"{spec.run_path}: {error.strerror}",
                "give a folder on storage that can be written and locked",
            )
            raise BadInputError("spec", [problem]) from error
        try:
            yield
        finally:
            # A job that was refused before it started leaves no folder.
            if is_new and not has_spec(spec.run_path):
                shutil.rmtree(spec.run_path, ignore_errors=True)


def has_spec(run_path: Path) -> bool:
    """Whether a run's folder belongs to a spec yet."""
    return (run_path / SPEC_NAME).exists()


def _lock(lock: TextIO, spec: JobSpec) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        problem = Problem(
            "name",
            f"the run {spec.name!r} is already running, in {lock.read().strip()}",
            "wait for it or stop it, then submit the same spec to resume",
        )
        raise BadInputError("spec", [problem]) from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()


def check_same_spec(spec: JobSpec) -> None:
    """Refuse a changed spec under the name of a run that exists: that run would be resumed.

    Raises:
        BadInputError: naming each field that differs.
    """
    if has_spec(spec.run_path):
        path = spec.run_path / SPEC_NAME
        problems = differences(read_spec(spec.run_path), spec, path, f"the run {spec.name!r}")
        if problems:
            raise BadInputError("spec", problems)


def differences(
    old: Section, new: Section, path: Path, owner: str, changeable: Container[str] = ()
) -> list[Problem]:
    """Each field in which a new spec differs from the one that its ``owner`` was started with.

    ``path``: where the old spec is stored. ``changeable``: top-level fields that may differ.
    """
    remedy = f"use another name, or restore the field as {path} has it"
    return [
        Problem(field, f"differs from {owner} that exists already", remedy)
        for field in differing_fields(old, new)
        if field.split(".")[0] not in changeable
    ]


def write_spec(spec: JobSpec) -> None:
    """Store a run's spec in its folder, which must exist."""
    write_atomically(spec.run_path / SPEC_NAME, spec.model_dump_json(indent=1) + "\n")


def read_spec(run_path: Path) -> JobSpec:
    """The spec that a run's folder belongs to."""
    return JobSpec.model_validate_json((run_path / SPEC_NAME).read_text())


def write_tags(run_path: Path, tags: Mapping[str, str]) -> None:
    """Store a run's tags (see ``provenance``) in its folder."""
    write_atomically(run_path / TAGS_NAME, json.dumps(dict(tags), indent=1) + "\n")


def read_tags(run_path: Path) -> dict[str, str]:
    """The tags that the last submission stored; none before the first."""
    path = run_path / TAGS_NAME
    tags: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return tags


class FencedError(RuntimeError):
    """Another process has taken over the run's folder; this one must not write to it any more."""


class FencingToken:
    """The right to write into a run's folder: the process that created a token last has it.

    A worker whose network was down may still be alive after it was replaced. It checks its token
    before it writes, and finds that there is a newer one.
    """

    def __init__(self, run_path: Path):
        self._path = run_path / FENCE_NAME
        self._text = uuid.uuid4().hex
        retry_io(lambda: write_atomically(self._path, self._text))

    def check(self) -> None:
        """Return while this is the newest token.

        Raises:
            FencedError: it is not.
            OSError: the storage fails.
        """
        if self._path.read_text() != self._text:
            raise FencedError(f"another worker has taken over {self._path.parent}")
