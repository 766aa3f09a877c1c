"""Where a run is tracked, which may change between its submissions.

A run id and the position up to which events were sent belong to one server and experiment. At
another one the run is found or created anew, and all its events are sent again.
"""

import hashlib
import json
import re
from pathlib import Path

from data_pipeline.files import write_atomically
from service.run.state_files import read_text_if_usable
from service.spec.job import JobSpec

RUN_ID_NAME = "mlflow_run_id"
SENT_NAME = "journal.sent"
DESTINATION_NAME = "mlflow_destination"


def publication_key(spec: JobSpec, uri: str) -> str:
    """Digest of where and how a student is published: server, experiment, model, promotion."""
    tracking = spec.tracking
    promotion = tracking.promote.model_dump_json() if tracking.promote is not None else None
    return _digest(uri, tracking.experiment, tracking.register_as, promotion)


def is_destination(spec: JobSpec, uri: str) -> bool:
    """Whether what the run's folder knows about MLflow belongs to this server and experiment."""
    stored = read_text_if_usable(spec.run_path / DESTINATION_NAME)
    return stored == _digest(uri, spec.tracking.experiment)


def stored_run_id(run_path: Path) -> str | None:
    """Id of the run in MLflow; None if none is stored, or if what is stored cannot be one."""
    text = read_text_if_usable(run_path / RUN_ID_NAME) or ""
    return text if re.fullmatch(r"[\w-]{1,64}", text, re.ASCII) else None


def set_destination(spec: JobSpec, uri: str) -> None:
    """Track the run at this server and experiment from now on; its folder must exist.

    Raises:
        OSError: the storage fails.
    """
    if is_destination(spec, uri):
        return
    for name in (RUN_ID_NAME, SENT_NAME):
        (spec.run_path / name).unlink(missing_ok=True)
    # A digest: an address may contain a password.
    write_atomically(
        spec.run_path / DESTINATION_NAME, _digest(uri, spec.tracking.experiment) + "\n"
    )


def _digest(*parts: str | None) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
