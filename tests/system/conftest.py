"""Tests of the deployment with servers of the system; each is skipped where its programs lack."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Hosts, jobs with faults, and the modules of the deployment.
sys.path[:0] = [str(ROOT / "tests" / "cluster"), str(ROOT / "deploy" / "slurm")]

from fault_runs import Workload  # noqa: E402


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    return Workload(tmp_path_factory.mktemp("work"))
