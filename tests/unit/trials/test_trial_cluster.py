"""What is checked before trials run on a cluster."""

import pytest
from ray.tune.execution.tune_controller import TuneController

from service.run.stop_signals import StopSignals
from service.spec.errors import BadInputError
from service.spec.sections import Resources
from service.trials import cluster as cluster_module
from service.trials.cluster import TrialCluster


def test_ray_tune_is_checked_by_jobs_that_go_on_too(monkeypatch, tmp_path):
    """The check of a job that begins may have been that of another Ray."""
    monkeypatch.setattr(TuneController, "__init__", lambda _: None)
    monkeypatch.setattr(cluster_module, "connect", pytest.fail)
    trials = TrialCluster(tmp_path, Resources(), None, 0, StopSignals())
    with pytest.raises(BadInputError, match="_actor_force_cleanup_timeout"):
        trials.run(None)
