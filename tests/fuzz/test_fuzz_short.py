"""A few inputs for each target; ``make fuzz`` runs as many as wanted."""

import pytest
from fuzz.campaign import Summary, run_input, table
from fuzz.guards import Guard
from fuzz.targets import TARGETS

SEED = 1
NUM_INPUTS = 120


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_are_accepted_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.chdir(folder)
    target, guard = TARGETS[name](folder), Guard(folder)
    summary = Summary(name, tmp_path / "failures")
    for index in range(NUM_INPUTS):
        data = target.input(name, SEED, index)
        summary.add(data, run_input(target, data, guard))
    assert not summary.failures, table([summary])
    # Otherwise all inputs might be refused for a reason that has nothing to do with them.
    assert summary.num_by_kind["accepted"] >= 1
