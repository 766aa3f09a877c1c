"""Tests of the deployment with servers of the system; each is skipped where its programs lack."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Hosts, jobs with faults, and the modules of the deployment.
sys.path[:0] = [str(ROOT / "tests" / "cluster"), str(ROOT / "deploy" / "slurm")]
