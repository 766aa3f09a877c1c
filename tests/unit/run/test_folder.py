"""A run's folder: one job at a time, for one spec."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.run import folder
from service.run.folder import claim_run_folder
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec

ROOT = Path(__file__).parents[3]


def test_second_job_for_a_run_is_refused_while_the_first_runs(make_content):
    spec = parse_spec(make_content())
    with (
        claim_run_folder(spec),
        pytest.raises(BadInputError, match=rf"is already running, in process {os.getpid()} "),
        claim_run_folder(spec),
    ):
        pass
    with claim_run_folder(spec):
        assert spec.run_path.exists()


def test_job_that_is_refused_before_it_starts_leaves_no_folder(make_content):
    spec = parse_spec(make_content())
    with pytest.raises(ZeroDivisionError), claim_run_folder(spec):
        raise ZeroDivisionError
    assert not spec.run_path.exists()


def test_folder_of_a_run_that_started_is_kept(make_content):
    spec = parse_spec(make_content())
    with claim_run_folder(spec):
        folder.write_spec(spec)
    assert folder.read_spec(spec.run_path) == spec


def test_changed_spec_under_an_old_name_is_refused_by_validate(make_content, write_spec):
    spec = parse_spec(make_content())
    with claim_run_folder(spec):
        folder.write_spec(spec)
    command = [sys.executable, "jobs/distill.py", str(write_spec(seed=5)), "--validate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "seed: differs from the run 'run'" in done.stderr
    command[2] = str(write_spec())
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
