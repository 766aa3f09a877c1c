"""Where a run came from: digests of its inputs, the code's revision, the Ray job."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

from safetensors.torch import save
from torch import nn

from service.dataset_facts import dataset_facts
from service.models.weights import sha256_of
from service.spec import JobSpec
from service.spec_rules import is_file_source
from service.training.checkpoints import plain_state


def provenance_tags(spec: JobSpec, teacher: nn.Module | None) -> dict[str, str]:
    """MLflow tags that tell two runs of one spec apart, or prove them the same."""
    tags = {
        "spec_hash": spec.content_hash(),
        "dataset_train_identity": dataset_facts(spec.dataset.train).identity,
        "dataset_val_identity": dataset_facts(spec.dataset.val).identity,
        "git_revision": git_revision(),
        "ray_submission_id": ray_submission_id(),
    }
    if spec.teacher is not None and teacher is not None:
        source = spec.teacher.weights.source
        if is_file_source(source):
            tags["teacher_sha256"] = sha256_of(Path(source))
        else:
            tags["teacher_sha256"] = hashlib.sha256(save(plain_state(teacher))).hexdigest()
    return tags


def git_revision() -> str:
    """Commit of the code that runs, with +changes where it was edited; unknown outside git."""
    root = Path(__file__).parent.parent
    try:
        command = [
            "git",
            "-C",
            str(root),
            "describe",
            "--always",
            "--abbrev=40",
            "--dirty=+changes",
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def ray_submission_id() -> str:
    """Id of the Ray job this process is the entry point of; none outside one."""
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return str(config.get("metadata", {}).get("job_submission_id", "none"))
