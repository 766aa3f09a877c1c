"""Every private name of Ray that this project uses; no other file imports or patches one.

Written for the pinned Ray release: read this file again with the next one. Classes that other
modules derive from are re-exported; attributes are read and written by the functions below.
"""

import re
from typing import Any

import ray
from ray._private.authentication.authentication_token_setup import (
    ensure_token_if_auth_enabled,
    maybe_enable_token_auth_if_token_available,
)
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import PlacementGroupID
from ray.train import ScalingConfig
from ray.train.torch.config import _TorchBackend as TorchBackend
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import (
    PlacementGroupCleanerCallback,
)
from ray.train.v2._internal.constants import (
    COLLECTIVE_TIMEOUT_S_ENV_VAR,
    ENABLE_PREEMPTION_WATCHER_ENV_VAR,
    HEALTH_CHECK_INTERVAL_S_ENV_VAR,
    PREEMPTION_POLL_INTERVAL_S_ENV_VAR,
    WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
    WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR,
)
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import TrainRunContext, get_train_context
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.preemption import PreemptionWatcher
from ray.train.v2._internal.execution.scaling_policy import (
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
    ScalingPolicy,
)
from ray.train.v2._internal.execution.worker_group import (
    Worker,
    WorkerGroup,
    WorkerGroupContext,
    WorkerGroupPollStatus,
    WorkerGroupState,
)
from ray.train.v2._internal.execution.worker_group import state as _group_state
from ray.train.v2._internal.execution.worker_group import worker_group as _worker_group
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    DefaultPlacementGroupHandle,
    PlacementGroupHandle,
)
from ray.util.placement_group import PlacementGroup

__all__ = [
    "COLLECTIVE_TIMEOUT_S_ENV_VAR",
    "ENABLE_PREEMPTION_WATCHER_ENV_VAR",
    "HEALTH_CHECK_INTERVAL_S_ENV_VAR",
    "PREEMPTION_POLL_INTERVAL_S_ENV_VAR",
    "WORKER_GROUP_START_TIMEOUT_S_ENV_VAR",
    "WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR",
    "ControllerCallback",
    "DatasetsCallback",
    "DefaultFailurePolicy",
    "DefaultPlacementGroupHandle",
    "FailureDecision",
    "NoopDecision",
    "PlacementGroupCleanerCallback",
    "PlacementGroupHandle",
    "PreemptionWatcher",
    "ResizeDecision",
    "ScalingDecision",
    "ScalingPolicy",
    "TorchBackend",
    "TrainController",
    "TrainRunContext",
    "Worker",
    "WorkerGroup",
    "WorkerGroupCallback",
    "WorkerGroupContext",
    "WorkerGroupPollStatus",
    "WorkerGroupStartupTimeoutError",
    "WorkerGroupState",
    "WorkerHealthCheckFailedError",
    "WorkerHealthCheckTimeoutError",
    "check_control_service",
    "cluster_address",
    "disable_synchronization_actor",
    "free_resources_per_node",
    "is_preemption_announced",
    "keep_sigterm_handler",
    "placement_group_of",
    "resources_per_worker",
    "set_trial_stop_timeout",
    "stop_preemption_watcher",
    "use_worker_group",
]


class _NullSynchronizationActor:
    """Takes the place of the actor through which workers synchronize their reports to Ray."""

    @classmethod
    def options(cls, **_: Any) -> type["_NullSynchronizationActor"]:  # noqa: ANN401 - Ray's interface
        """Ray sets the actor's placement."""
        return cls

    @classmethod
    def remote(cls, **_: Any) -> "_NullSynchronizationActor":  # noqa: ANN401 - Ray's interface
        """Ray starts the actor."""
        return cls()


def disable_synchronization_actor() -> None:
    """Start no actor for reports with each worker group: workers here report nothing to Ray."""
    _worker_group.SynchronizationActor = _NullSynchronizationActor
    _group_state._shutdown_sync_actor = lambda _: None


def cluster_address() -> str | None:
    """Address of the cluster that ``ray.init()`` would join; None if it would start one.

    Raises:
        ValueError: RAY_ADDRESS is not an address.
        ConnectionError: it is "auto", and no cluster runs on this machine.
    """
    address: str | None = canonicalize_bootstrap_address(None)
    return address


def check_control_service(address: str, *, is_found: bool) -> None:
    """Make one request to a cluster's control service, which something must answer.

    ``is_found``: Ray found the cluster on this machine; then it looks for a token there too.

    Raises:
        AuthenticationError: it rejects the token, or there is none.
        RayError: what listens there is not a control service.
    """
    if is_found:
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    # Without it, the request below ends the process where a token is required and missing.
    ensure_token_if_auth_enabled(None, create_token_if_missing=False)
    ray._raylet.GcsClient(address=address)


def keep_sigterm_handler() -> None:
    """Let ``ray.init()`` leave SIGTERM alone; its handler ends the process, with a status of 1."""
    ray._private.utils.set_sigterm_handler = lambda _: None


def use_worker_group(worker_group_class: type[WorkerGroup]) -> None:
    """In a controller's process: the class of the worker groups that Ray's controller starts."""
    TrainController.worker_group_cls = worker_group_class


def is_preemption_announced() -> bool:
    """In a worker: whether a node of its group is to be drained."""
    return get_train_context().preemption_context.preemption_info is not None


def stop_preemption_watcher(watcher: PreemptionWatcher) -> None:
    """End the watcher's thread."""
    watcher._stop_event.set()


def free_resources_per_node() -> dict[str, dict[str, float]]:
    """Resources that are free on each node, by node id, without nodes that are being drained.

    Raises:
        Exception: of many kinds, while the cluster's control service does not answer.
    """
    state = ray._private.state.state
    draining = state.get_draining_nodes()
    available: dict[str, dict[str, float]] = state.available_resources_per_node()
    return {node: free for node, free in available.items() if node not in draining}


def resources_per_worker(scaling_config: ScalingConfig) -> dict[str, float]:
    """Resources of each worker, with Ray's defaults filled in."""
    resources: dict[str, float] = scaling_config._resources_per_worker_not_none
    return resources


def placement_group_of(hex_id: str) -> PlacementGroup:
    """The placement group with this id, whoever created it.

    Raises:
        ValueError: it is not an id.
    """
    # Ray takes any other text for the id of no group.
    if not re.fullmatch(r"[0-9a-f]+", hex_id) or len(hex_id) != len(PlacementGroupID.nil().hex()):
        raise ValueError(f"{hex_id!r} is not the id of a placement group")
    return PlacementGroup(PlacementGroupID.from_hex(hex_id))


def set_trial_stop_timeout(tune_controller: Any, timeout_s: float) -> None:  # noqa: ANN401 - Ray's type
    """Seconds that Tune gives its trials to end when it is stopped; its default is 10."""
    tune_controller._actor_force_cleanup_timeout = timeout_s
