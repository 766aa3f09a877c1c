"""How many trials fit on a cluster at a time."""

import pytest

from service.spec.errors import BadInputError
from service.spec.sections import Resources
from service.trials import capacity
from service.trials.capacity import trials_that_fit

NODE = {"CPU": 8.0, "memory": 8e9}


@pytest.fixture
def make_nodes(monkeypatch):
    def make(*resources):
        nodes = [{"Alive": True, "Resources": each} for each in resources]
        monkeypatch.setattr(capacity.ray, "nodes", lambda: nodes)

    return make


@pytest.mark.parametrize(
    ("nodes", "wanted", "expected"),
    [
        ([NODE, NODE], None, 16),
        ([NODE, NODE], 5, 5),
        # Three processes of half a gigabyte on one node, one on the other.
        ([{"CPU": 8.0, "memory": 1.9e9}, {"CPU": 8.0, "memory": 0.9e9}], None, 4),
        ([NODE, {"CPU": 8.0}], None, 16),
    ],
)
def test_concurrency_is_limited_by_workers_and_by_memory(make_nodes, nodes, wanted, expected):
    make_nodes(*nodes)
    resources = Resources(num_workers=1, cpus_per_worker=1)

    assert capacity.plan_concurrency(resources, wanted) == expected


@pytest.mark.parametrize(
    ("nodes", "wanted", "field"),
    [
        ([{"CPU": 1.0, "memory": 8e9}], None, "resources"),
        ([NODE], 5, "concurrency"),
        ([{"CPU": 8.0, "memory": 1e8}], None, "concurrency"),
        ([{"CPU": 8.0, "memory": 6e8}], 2, "concurrency"),
    ],
)
def test_what_does_not_fit_is_refused(make_nodes, nodes, wanted, field):
    make_nodes(*nodes)

    with pytest.raises(BadInputError) as error:
        capacity.plan_concurrency(Resources(num_workers=1, cpus_per_worker=2), wanted)
    assert [problem.where for problem in error.value.problems] == [field]


@pytest.mark.parametrize(
    ("resources", "nodes", "expected"),
    [
        ({"num_workers": 1, "cpus_per_worker": 1}, [{"CPU": 4}], 4),
        ({"num_workers": 2, "cpus_per_worker": 2}, [{"CPU": 4}, {"CPU": 4}], 2),
        # A worker with two CPUs fits once on a node with three; the rest stays free.
        ({"num_workers": 1, "cpus_per_worker": 2}, [{"CPU": 3}, {"CPU": 3}], 2),
        ({"num_workers": 3, "cpus_per_worker": 1}, [{"CPU": 1}, {"CPU": 1}], 0),
        ({"num_workers": 1, "cpus_per_worker": 1, "gpu": True}, [{"CPU": 64, "GPU": 8}], 8),
        ({"num_workers": 1, "cpus_per_worker": 1, "gpu": True}, [{"CPU": 64}], 0),
        ({"num_workers": [1, 4], "cpus_per_worker": 1}, [{"CPU": 2}], 1),
        ({"num_workers": [1, 4], "cpus_per_worker": 1}, [{"CPU": 9}], 2),
    ],
)
def test_number_of_trials_that_fit(resources, nodes, expected):
    assert trials_that_fit(Resources(**resources), nodes) == expected
