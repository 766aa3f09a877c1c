"""Which job holds a run's folder, and what the run in it is bound to.

From its first step or checkpoint on, a run is bound to its spec and to what is in the files that
the spec names: it would go on with other data, or be another run. What was rejected before that is
not bound: any field may be fixed under the same name.
"""

import contextlib
import fcntl
import os
import shutil
import socket
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from data_pipeline.files import open_regular, remove_partials, sha256_of
from service.run.execution import read_execution
from service.run.folder import (
    LOCK_NAME,
    RUNS_NAME,
    SPEC_NAME,
    TAGS_NAME,
    TRIALS_NAME,
    has_spec,
    read_spec,
    read_tags,
)
from service.run.journal import FAILURES_NAME, JOURNAL_NAME, SERIES, read_events
from service.run.status import STATUS_NAME
from service.spec.errors import BadInputError, Problem
from service.spec.identity import fixed_differences
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob
from service.spec.networks import field_of_tag, weights_tag
from service.spec.sections import is_file_source

DATASET_TAGS = {
    "dataset_train_fingerprint": "dataset.train",
    "dataset_val_fingerprint": "dataset.val",
}
"""Tags with the digests of a run's datasets, and the fields that name these."""

CHECKPOINT_PATTERN = "checkpoint_*"
RECORDS = (
    JOURNAL_NAME,
    FAILURES_NAME,
    STATUS_NAME,
    TAGS_NAME,
    "journal.sent",
    "mlflow_*",
    "nonfinite_step*.json",
    "crash_rank*.txt",
    "*_predictions.safetensors",
    "teacher_cache.json",
)
"""Files of a run's folder that tell what happened to it."""


@contextlib.contextmanager
def claim_run_folder(spec: JobSpec) -> Iterator[None]:
    """Hold the folder of ``spec`` for this process alone; it is created if it does not exist.

    The lock is released with the context, or by the kernel when the process ends. A folder in which
    no spec was stored is removed when the context ends.

    Raises:
        BadInputError: another job holds the folder, or it cannot be written.
    """
    is_new = not spec.run_path.exists()
    with ExitStack() as stack:
        try:
            spec.run_path.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open_regular(spec.run_path / LOCK_NAME, "a+"))
            _lock(lock, spec)
        except OSError as error:
            problem = Problem(
                "checkpoints.storage_path",
                f"{spec.run_path / LOCK_NAME}: {error.strerror}",
                "give a folder on storage that can be written and locked",
            )
            raise BadInputError("spec", [problem]) from error
        # While the lock is held, partial files can only be those of processes that were killed.
        remove_partials(spec.run_path)
        try:
            yield
        finally:
            remove_partials(spec.run_path)
            # A job that was refused before it started leaves no folder.
            if is_new and not has_spec(spec.run_path):
                shutil.rmtree(spec.run_path, ignore_errors=True)


def _lock(lock: IO[str], spec: JobSpec) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        problem = Problem(
            "name",
            f"the run {spec.name!r} is already running, in {lock.read(200).strip()}",
            "wait for it or stop it, then submit the same spec to resume",
        )
        raise BadInputError("spec", [problem]) from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()


def has_started(run_path: Path) -> bool:
    """Whether a run has made a step that was saved or reported.

    Of a sweep or a comparison, whether one of its runs has.
    """
    patterns = (f"{name}/*/{SPEC_NAME}" for name in (TRIALS_NAME, RUNS_NAME))
    runs = (path.parent for pattern in patterns for path in run_path.glob(pattern))
    return any(_has_steps(path) for path in (run_path, *runs))


def _has_steps(run_path: Path) -> bool:
    if any(run_path.glob(CHECKPOINT_PATTERN)):
        return True
    events = read_events(run_path / JOURNAL_NAME)
    return any(event.kind in SERIES and event.step > 0 for event in events)


def check_resumable(job: LoadedJob) -> None:
    """Refuse a changed spec, or changed files, under the name of a run that has started.

    Raises:
        BadInputError: naming each field that differs, and both digests of each file that does; or
            how the run computes is in a damaged file.
    """
    run_path, name = job.spec.run_path, job.spec.name
    if not has_spec(run_path) or not has_started(run_path):
        return
    differing = fixed_differences(read_spec(run_path), job.spec)
    problems = differences(differing, run_path / SPEC_NAME, f"the run {name!r}")
    problems += changed_inputs(read_tags(run_path), input_tags(job), name)
    if problems:
        raise BadInputError("spec", problems)
    read_execution(run_path)


def check_inputs(spec: JobSpec, digests: Mapping[str, str]) -> None:
    """Refuse weights that are not those that a run was started with.

    Raises:
        BadInputError: with both digests.
    """
    if has_started(spec.run_path):
        problems = changed_inputs(read_tags(spec.run_path), digests, spec.name)
        if problems:
            raise BadInputError("spec", problems)


def differences(
    paths: list[str], stored_path: Path, owner: str, changeable: Container[str] = ()
) -> list[Problem]:
    """A problem for each differing field.

    ``stored_path``: where the old spec is. ``owner``: what was started with it. ``changeable``:
    top-level fields that may differ.
    """
    remedy = f"use another name, or restore the field as {stored_path} has it"
    return [
        Problem(path, f"differs from {owner} that exists already", remedy)
        for path in paths
        if path.split(".")[0] not in changeable
    ]


def input_tags(job: LoadedJob) -> dict[str, str]:
    """Digests of the files that a spec names, as tags; without weights that are no files."""
    tags = {
        "dataset_train_fingerprint": job.train.fingerprint,
        "dataset_val_fingerprint": job.val.fingerprint,
    }
    for path, network in job.spec.networks().items():
        weights = network.weights
        if weights is not None and is_file_source(weights.source):
            file = Path(weights.source)
            if file.is_file():
                tags[weights_tag(path)] = sha256_of(file)
    return tags


def changed_inputs(old: Mapping[str, str], new: Mapping[str, str], name: str) -> list[Problem]:
    """A problem for each file whose digest is another one than that of the first submission.

    ``new``: tags of ``input_tags``, or of the weights and of the teacher's classes.
    """
    return [
        Problem(
            DATASET_TAGS.get(tag) or field_of_tag(tag),
            f"has the digest {digest}, but the run {name!r} was started with {old[tag]}",
            "use another name, or restore what has changed",
        )
        for tag, digest in new.items()
        if tag in old and old[tag] != digest
    ]


def forget_rejected(spec: JobSpec) -> None:
    """Remove what an earlier submission with other settings left that was rejected before a step.

    The folder must be held. Its journal and its MLflow run would be those of another run.
    """
    run_path = spec.run_path
    if not has_spec(run_path) or has_started(run_path):
        return
    try:
        is_other = bool(fixed_differences(read_spec(run_path), spec))
    except BadInputError:
        # The spec is damaged, or of another version; no checkpoint depends on it yet.
        is_other = True
    if is_other:
        for pattern in RECORDS:
            for path in run_path.glob(pattern):
                path.unlink()
