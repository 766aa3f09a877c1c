"""Reads the manifest of a dataset at any location."""

import json
import queue
import re
import threading
from collections.abc import Callable
from typing import Any

from data_pipeline.staging.remote import StagingError, remote_file

ANSWER_LIMIT_S = 15.0

_FINGERPRINT = re.compile(r"[0-9a-f]{32,}")


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
    content = _within_limit(manifest_location, lambda: remote_file(manifest_location).read())
    try:
        manifest = json.loads(content)
    except ValueError as error:
        raise StagingError(
            f"{manifest_location} is not JSON ({error}); upload the manifest of the "
            "conversion again"
        ) from error
    fault = _fault(manifest)
    if fault:
        raise StagingError(
            f"{manifest_location} {fault}; convert the dataset again with jobs/convert.py"
        )
    return dict(manifest)


def _fault(manifest: object) -> str | None:
    if not isinstance(manifest, dict):
        return "is not a JSON object"
    fingerprint, num_bytes = manifest.get("fingerprint"), manifest.get("num_bytes")
    # The fingerprint becomes the name of a folder: only hexadecimal digits are safe.
    if not isinstance(fingerprint, str) or not _FINGERPRINT.fullmatch(fingerprint):
        return 'lacks "fingerprint", a hex digest of the content'
    if not isinstance(num_bytes, int) or isinstance(num_bytes, bool) or num_bytes <= 0:
        return 'lacks "num_bytes", the size of the .beton'
    return None


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
