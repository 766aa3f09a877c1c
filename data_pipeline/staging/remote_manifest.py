"""Reads the manifest of a dataset at any location."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.json_files import UnusableFileError, parse_json
from data_pipeline.manifest import LIMIT_BYTES, manifest_fault
from data_pipeline.staging.remote import StagingError, remote_file

ANSWER_LIMIT_S = 15.0
REQUIRED_TO_COPY = ("fingerprint", "num_bytes")


def read_manifest_at(location: str) -> dict[str, Any]:
    """The manifest of the .beton at s3://bucket/key, gs://bucket/key or a path.

    Returns or raises within ANSWER_LIMIT_S seconds, even if the store or mount does not respond.

    Raises:
        StagingError: no such dataset or bucket, access refused, no answer, or a manifest that is
            not JSON or lacks what staging needs.
    """
    if not location.endswith(".beton"):
        raise StagingError(f"{location} is not a .beton file; name one, as in .../train.beton")
    manifest_location = location + ".json"
    try:
        content = _within_limit(
            manifest_location, lambda: remote_file(manifest_location).read(LIMIT_BYTES)
        )
        manifest = parse_json(content, Path(manifest_location), dict)
    except UnusableFileError as error:
        raise StagingError(
            f"{manifest_location} is not a manifest ({error.fault}); upload the manifest of the "
            "conversion again"
        ) from error
    missing = [name for name in REQUIRED_TO_COPY if name not in manifest]
    fault = f'lacks "{missing[0]}"' if missing else manifest_fault(manifest)
    if fault:
        raise StagingError(
            f"{manifest_location} is damaged: {fault}; convert the dataset again with "
            "jobs/convert.py"
        )
    return manifest


def _within_limit(location: str, read: Callable[[], bytes]) -> bytes:
    """The result of ``read``, within ANSWER_LIMIT_S.

    A mount whose server is down blocks a reader in the kernel, and a store's client retries for
    longer than a user waits. Neither can be interrupted, so ``read`` runs in a daemon thread, which
    is abandoned after the limit.
    """
    answers: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put(read())
        except Exception as error:
            answers.put(error)

    threading.Thread(target=run, name="read-manifest", daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER_LIMIT_S)
    except queue.Empty:
        raise StagingError(
            f"{location}: no answer within {ANSWER_LIMIT_S:g} s; check the network, the endpoint "
            "and the mount"
        ) from None
    if isinstance(answer, Exception):
        raise answer
    return answer
