"""What a run's tags say of its source."""

import getpass
import json
import subprocess
from pathlib import Path

import pytest

from service.tracking import source_tags as module
from service.tracking.source_tags import git_revision, source_tags

JOB = json.dumps({"metadata": {"job_submission_id": "raysubmit_1"}})


@pytest.fixture(autouse=True)
def _no_job(monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)


@pytest.mark.parametrize(
    ("config", "source_type", "submission_id"),
    [
        (None, "LOCAL", "none"),
        (JOB, "JOB", "raysubmit_1"),
        ("{", "LOCAL", "none"),
        ('{"metadata": 3}', "LOCAL", "none"),
    ],
)
def test_within_a_ray_job_the_source_is_a_job(config, source_type, submission_id, monkeypatch):
    if config is not None:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", config)
    tags = source_tags("jobs/sweep.py")
    assert tags["mlflow.source.name"] == "jobs/sweep.py"
    assert tags["mlflow.source.type"] == source_type
    assert tags["ray_submission_id"] == submission_id


def test_commit_is_that_of_git_and_changes_are_said(monkeypatch):
    monkeypatch.setattr(module, "git_revision", lambda: "ab" * 20 + "+changes")
    tags = source_tags("jobs/distill.py")
    assert tags["mlflow.source.git.commit"] == "ab" * 20
    assert tags["git_revision"] == "ab" * 20 + "+changes"
    monkeypatch.setattr(module, "git_revision", lambda: "unknown")
    assert "mlflow.source.git.commit" not in source_tags("jobs/distill.py")


def test_revision_is_the_head_of_the_code():
    root = Path(__file__).parents[3]
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, check=False)
    if head.returncode != 0:
        pytest.skip("not a git checkout")
    assert git_revision().removesuffix("+changes") == head.stdout.strip()


def test_user_without_a_name_is_unknown(monkeypatch):
    assert source_tags("x")["mlflow.user"] == getpass.getuser()

    def fail():
        raise OSError("no name")

    monkeypatch.setattr(getpass, "getuser", fail)
    assert source_tags("x")["mlflow.user"] == "unknown"


def test_without_git_the_revision_is_that_of_the_image(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert git_revision() == "unknown"
    (tmp_path / "REVISION").write_text("ab" * 20 + "+changes\n")
    assert git_revision() == "ab" * 20 + "+changes"
