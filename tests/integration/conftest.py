"""Fixtures of tests that start a cluster."""

import pytest


@pytest.fixture(autouse=True)
def _no_cluster_of_others(monkeypatch):
    """Jobs start a cluster of their own, also where a dead one was the last on this machine."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
