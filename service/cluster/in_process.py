"""Ray Train's controller as a part of this process, with workers that stay for the next run."""

import asyncio
from typing import Any

import ray.train
from ray.train.v2._internal.callbacks.placement_group_callback import (
    PlacementGroupCleanerCallback,
)
from ray.train.v2._internal.execution.controller import TrainController

from service.cluster.kept_workers import KeepingWorkerGroup


class KeepingController(TrainController):  # type: ignore[misc]
    """Ray's controller, with workers that stay for the next run."""

    worker_group_cls = KeepingWorkerGroup


def run_controller(parts: dict[str, Any]) -> ray.train.Result:
    """Train with Ray's controller in this process, which must have no other training of Ray's.

    ``parts``: what Ray makes its controller from.
    """
    # What a controller in this process holds is let go of with it; none must clean up after it.
    parts["callbacks"] = [
        c for c in parts["callbacks"] if not isinstance(c, PlacementGroupCleanerCallback)
    ]
    controller = KeepingController(**parts)
    asyncio.run(controller.run())
    return controller.get_result()
