"""Tests of the deployment with servers of the system; each is skipped where its programs lack."""

import sys
from pathlib import Path

# Hosts, and jobs with faults.
sys.path.insert(0, str(Path(__file__).parents[1] / "cluster"))
