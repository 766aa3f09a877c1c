"""A comparison on a Ray node of this machine that is stopped; its MLflow store is elsewhere.

That it is sent to MLflow is tested by test_compare_sync.py, and that only new rows and seeds are
trained by tests/unit/compare/test_compare_job.py.
"""

import csv
import os
import signal
import threading
import time

import pytest
from support.compare_runs import without_mlflow
from support.training_runs import run_alone
from support.trial_cluster import assert_resources_are_released, local_cluster

from service.compare.job import run_comparison
from service.compare.jobs import run_specs
from service.compare.loading import parse_comparison
from service.compare.outcome import RESULTS_NAME, outcome_of, write_outcome
from service.compare.reading import RunRecords
from service.result import collect_result
from service.run.folder import write_spec
from service.run.journal import JOURNAL_NAME, read_events
from service.trials import cluster as cluster_module

LIMIT_S = 240

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with local_cluster():
        yield


def starts(compare):
    """Number of times that each run started to train."""
    return {
        path.parent.name: sum(event.kind == "start" for event in read_events(path))
        for path in sorted(compare.compare_path.glob(f"runs/*/{JOURNAL_NAME}"))
    }


def submit(compare_content, stop_at=None):
    """The exit status; SIGTERM comes when the run ``stop_at`` has started to train."""
    loaded = parse_comparison(compare_content)

    def stop():
        deadline_s = time.monotonic() + LIMIT_S
        while not starts(loaded.compare).get(stop_at) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    if stop_at is not None:
        threading.Thread(target=stop, daemon=True).start()
    return run_comparison(loaded)


def train_alone(compare):
    """The same comparison in this process, without Ray."""
    specs = run_specs(compare)
    for spec in specs.values():
        run_alone(spec)
        write_spec(spec)
        collect_result(spec.run_path, spec.schedule.num_epochs)
    write_outcome(outcome_of(compare, RunRecords(specs).read({}, {}), {}))


def results(compare):
    """The table, without what depends on clocks."""
    with (compare.compare_path / RESULTS_NAME).open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for column in ("images_per_s", "peak_memory_bytes"):
            del row[column]
    return rows


def test_comparison_that_was_stopped_equals_an_undisturbed_one(make_compare_content, monkeypatch):
    without_mlflow(monkeypatch.setattr)
    monkeypatch.setattr(cluster_module, "connect", lambda: None)
    content = make_compare_content(name="stopped", concurrency=1)
    compare = parse_comparison(content).compare
    reference = parse_comparison({**content, "name": "reference"}).compare
    train_alone(reference)

    assert submit(content, stop_at="base-seed-1") == 3
    before = starts(compare)
    assert submit(content) == 0
    assert results(compare) == results(reference)
    after = starts(compare)
    assert all(after[f"{name}-seed-0"] == before[f"{name}-seed-0"] == 1 for name in ("base", "kd"))
    assert not list(compare.compare_path.glob("runs/*/checkpoint_*"))
    assert_resources_are_released()
