"""Where a run came from: digests of its inputs, the code's revision, the Ray job."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from service.run.folder import VERSION_TAG
from service.run.state_files import service_version
from service.spec.loading import LoadedJob
from service.spec.paths import RAY_JOB_VARIABLE
from service.tracking.dataset_inputs import dataset_tags


def provenance_tags(job: LoadedJob, weights_tags: Mapping[str, str]) -> dict[str, str]:
    """MLflow tags that tell two runs of one spec apart, or prove that they are the same.

    ``weights_tags``: digests of the weights and of the teacher's classes, such as teacher_sha256.
    """
    return {
        "spec_hash": job.spec.content_hash(),
        **dataset_tags("train", job.train),
        **dataset_tags("val", job.val),
        VERSION_TAG: service_version(),
        "git_revision": git_revision(),
        "ray_submission_id": ray_submission_id(),
        **weights_tags,
    }


def git_revision() -> str:
    """Commit of the code that runs, with +changes where it was edited; unknown outside git."""
    root = str(Path(__file__).parent.parent)
    command = ["git", "-C", root, "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def ray_submission_id() -> str:
    """Id of the Ray job that this process is the entry point of; none outside one."""
    try:
        config = json.loads(os.environ.get(RAY_JOB_VARIABLE, "{}"))
        return str(config["metadata"]["job_submission_id"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return "none"
