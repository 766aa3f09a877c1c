"""A stop while the cluster fills the teacher's cache."""

import pytest

from service.cluster import cache_filling
from service.run.stop_signals import JobStoppedError


class Reference:
    """An object that never is there."""


def test_a_stop_cancels_what_is_not_done(monkeypatch):
    canceled, waited = [], []

    class Task:
        def options(self, **_):
            return self

        def remote(self, *_):
            return Reference()

    def wait(references, *, num_returns, timeout):
        assert num_returns == 1
        waited.append(timeout)
        return [], references

    def check():
        if len(waited) == 2:
            raise JobStoppedError

    monkeypatch.setattr(cache_filling.ray, "remote", lambda _: Task())
    monkeypatch.setattr(cache_filling.ray, "wait", wait)
    monkeypatch.setattr(cache_filling.ray, "cancel", canceled.append)
    tasks = [cache_filling.EpochTask(Spec(), epoch, "") for epoch in (0, 1)]
    with pytest.raises(JobStoppedError):
        cache_filling.fill_epochs(tasks, pytest.fail, check)
    assert len(canceled) == 2
    assert waited == [cache_filling.CHECK_INTERVAL_S] * 2


class Spec:
    """As much of a spec as tasks need."""

    class resources:  # noqa: N801 - a section
        cpus_per_worker, gpu, max_failures = 1, False, 3

    def model_dump_json(self):
        return "{}"
