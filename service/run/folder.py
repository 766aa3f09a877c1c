"""Files of a run's folder: its spec and tags, and which worker may write."""

import json
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from data_pipeline.files import retry_io, write_atomically
from data_pipeline.json_files import UnusableFileError, read_bounded
from service.run.state_files import (
    TEXT_LIMIT_BYTES,
    read_if_usable,
    read_state,
    read_stored,
)
from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.many_jobs import ManyJobs
from service.spec.paths import is_same_folder

SPEC_NAME = "spec.json"
TAGS_NAME = "tags.json"
LOCK_NAME = ".lock"
FENCE_NAME = ".fencing_token"
STUDENT_NAME = "student.safetensors"
PAGE_NAME = "run.html"
"""In the folder of a job's run; trials and runs of comparisons have none: it has 2 MB."""
VERSION_TAG = "service_version"
TRIALS_NAME = "trials"
"""Folder of a sweep's folder, with those of its trials."""
RUNS_NAME = "runs"
"""Folder of a comparison's folder, with those of its runs."""

M = TypeVar("M", bound=ManyJobs)


def has_spec(run_path: Path) -> bool:
    """Whether a run's folder belongs to a spec yet."""
    return (run_path / SPEC_NAME).exists()


def write_spec(spec: JobSpec) -> None:
    """Store a run's spec in its folder, which must exist."""
    write_atomically(spec.run_path / SPEC_NAME, spec.model_dump_json(indent=1) + "\n")


def read_spec(run_path: Path) -> JobSpec:
    """The spec that a run's folder belongs to; its ``run_path`` is this folder.

    The folder may have been moved or copied, or come from somebody else: where its spec says that
    it is does not count.

    Raises:
        BadInputError: it is damaged, or was written by another version of the service.
        OSError: the storage fails, or there is no spec.
    """
    spec = read_stored(run_path / SPEC_NAME, JobSpec, lambda: written_by(run_path))
    return located(spec, run_path)


def read_many_jobs(folder: Path, name: str, kind: type[M]) -> M:
    """The spec of a sweep or a comparison in the file ``name`` of its folder; see ``read_spec``.

    Raises:
        BadInputError: it is damaged, or was written by another version of the service.
        OSError: the storage fails, or there is no such file.
    """
    stored = read_stored(folder / name, kind, lambda: written_by(folder))
    job = located(stored.as_job(), folder)
    return stored if job == stored.as_job() else stored.moved_to(job)


def written_by(run_path: Path) -> str | None:
    """Version of the service whose job wrote the folder's tags last; None if it is not known."""
    return (read_if_usable(run_path / TAGS_NAME, dict[str, str]) or {}).get(VERSION_TAG)


def located(spec: JobSpec, run_path: Path) -> JobSpec:
    """The spec with ``run_path`` as its folder; unchanged where it names this folder already."""
    run_path = run_path.resolve() if ".." in run_path.parts else run_path.absolute()
    is_there = spec.run_path.name == run_path.name
    if is_there and is_same_folder(spec.checkpoints.storage_path, run_path.parent):
        return spec
    return spec.located_at(run_path)


def refuse_links(paths: Iterable[Path]) -> None:
    """Refuse folders that are links: what is written below them would be somewhere else.

    Raises:
        BadInputError: naming each of them.
    """
    remedy = "give the folder that it leads to"
    problems = [Problem(str(p), "is a symbolic link", remedy) for p in paths if p.is_symlink()]
    if problems:
        raise BadInputError("folder", problems)


def write_tags(run_path: Path, tags: Mapping[str, str]) -> None:
    """Store a run's tags (see ``provenance``) in its folder."""
    write_atomically(run_path / TAGS_NAME, json.dumps(dict(tags), indent=1) + "\n")


def read_tags(run_path: Path) -> dict[str, str]:
    """The tags that the last submission stored; none before the first.

    Raises:
        BadInputError: they are damaged.
        OSError: the storage fails.
    """
    remedy = "restore the file, or use another name: it has the digests of the run's files"
    return read_state(run_path / TAGS_NAME, dict[str, str], remedy) or {}


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
        try:
            is_own = read_bounded(self._path, TEXT_LIMIT_BYTES) == self._text.encode()
        except UnusableFileError:
            is_own = False
        if not is_own:
            raise FencedError(f"another worker has taken over {self._path.parent}")
