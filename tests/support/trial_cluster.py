"""A Ray node of this machine for trials, and what must be free on it when they have ended."""

import contextlib
import time

import ray

NUM_CPUS = 2


@contextlib.contextmanager
def local_cluster():
    """A node without the dashboard, which a sweep does not need."""
    ray.init("local", num_cpus=NUM_CPUS, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def assert_resources_are_released():
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        groups = ray.util.placement_group_table().values()
        is_free = ray.available_resources().get("CPU") == NUM_CPUS
        if is_free and all(group["state"] == "REMOVED" for group in groups):
            return
        time.sleep(0.2)
    raise AssertionError((ray.available_resources(), ray.util.placement_group_table()))
