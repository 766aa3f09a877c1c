"""A cluster that is this process."""

import pytest
from support.compare_runs import HereCluster


@pytest.fixture
def here(monkeypatch):
    """Runs of comparisons are trained in this process."""
    cluster = HereCluster()
    cluster.install(monkeypatch.setattr)
    return cluster
