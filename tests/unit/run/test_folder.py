"""A run's folder: one job at a time, for one spec."""

import os

import pytest

from service.run import folder
from service.run.claim import claim_run_folder
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec


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
