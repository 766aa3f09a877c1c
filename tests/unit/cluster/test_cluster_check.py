"""Resources that a cluster does not have are refused, unless an autoscaler may add them."""

import pytest
import ray

from service.cluster.connection import check_cluster
from service.spec.errors import BadInputError
from service.spec.sections import Resources

RESOURCES = Resources(num_workers=2, cpus_per_worker=4, gpu=True)


@pytest.fixture(autouse=True)
def small_cluster(monkeypatch):
    monkeypatch.delenv("RAY_enable_autoscaler_v2", raising=False)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 1.0})


def test_what_the_cluster_lacks_is_refused():
    with pytest.raises(BadInputError) as caught:
        check_cluster(RESOURCES)
    (problem,) = caught.value.problems
    assert problem.where == "resources.gpu"
    assert problem.wrong == "2 workers need 2 GPUs, the cluster has 1"


@pytest.mark.parametrize(("value", "is_refused"), [("true", False), ("false", True)])
def test_an_autoscaler_may_add_it(monkeypatch, value, is_refused):
    monkeypatch.setenv("RAY_enable_autoscaler_v2", value)
    if is_refused:
        with pytest.raises(BadInputError):
            check_cluster(RESOURCES)
    else:
        check_cluster(RESOURCES)
