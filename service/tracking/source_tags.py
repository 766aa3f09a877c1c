"""Where a run was started: the script, the Ray job, the user and the code's revision, as tags.

MLflow's UI shows those whose names start with mlflow. in the columns Source, Version and User.
"""

import getpass
import json
import os
import subprocess
from pathlib import Path

from mlflow.entities import SourceType
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from service.run.state_files import read_text_if_usable
from service.spec.paths import RAY_JOB_VARIABLE

NO_JOB = "none"
UNKNOWN = "unknown"
CHANGES_SUFFIX = "+changes"
ROOT = Path(__file__).parents[2]
IMAGE_REVISION = "REVISION"
"""A file that an image has in place of a git repository."""


def source_tags(script: str) -> dict[str, str]:
    """The tags of a run that ``script``, such as jobs/distill.py, starts now."""
    revision, submission_id = git_revision(), ray_submission_id()
    tags = {
        "git_revision": revision,
        "ray_submission_id": submission_id,
        MLFLOW_SOURCE_NAME: script,
        MLFLOW_SOURCE_TYPE: SourceType.to_string(
            SourceType.LOCAL if submission_id == NO_JOB else SourceType.JOB
        ),
        MLFLOW_USER: _user(),
    }
    if revision != UNKNOWN:
        tags[MLFLOW_GIT_COMMIT] = revision.removesuffix(CHANGES_SUFFIX)
    return tags


def git_revision() -> str:
    """Commit of the code that runs, with +changes where it was edited; unknown without either.

    It is git's, or that which the image was built of.
    """
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*"]
    command.append(f"--dirty={CHANGES_SUFFIX}")
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return read_text_if_usable(ROOT / IMAGE_REVISION) or UNKNOWN


def ray_submission_id() -> str:
    """Id of the Ray job that this process is the entry point of; none outside one."""
    try:
        config = json.loads(os.environ.get(RAY_JOB_VARIABLE, "{}"))
        return str(config["metadata"]["job_submission_id"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return NO_JOB


def _user() -> str:
    # In a container, the user's number may have no name.
    try:
        return getpass.getuser()
    except (OSError, LookupError):
        return UNKNOWN
