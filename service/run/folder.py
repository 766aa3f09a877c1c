"""Files of a run's folder: its spec and tags, and which worker may write."""

import json
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from data_pipeline.files import retry_io, write_atomically
from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.paths import is_same_folder

SPEC_NAME = "spec.json"
TAGS_NAME = "tags.json"
LOCK_NAME = ".lock"
FENCE_NAME = ".fencing_token"
STUDENT_NAME = "student.safetensors"
TRIALS_NAME = "trials"
"""Folder of a sweep's folder, with those of its trials."""


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
    """
    return located(JobSpec.model_validate_json((run_path / SPEC_NAME).read_text()), run_path)


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
