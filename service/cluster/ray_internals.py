"""Every private name of Ray that this project uses; no other file imports one.

Without one of them, something that the README promises is gone; TRAINER alone saves only time.
"""

import pkgutil
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import ray
from ray.util.placement_group import PlacementGroup

from service.spec.errors import BadInputError, Problem

SUPPORTED = ">=2.59,<2.61"
"""The releases that the tests have passed with, as in pyproject.toml."""


class PrivateName(NamedTuple):
    """A private name of Ray.

    ``path``: its module and what is in it. ``promise``: what it is needed for. ``instead``: the
    public API that would have to exist.
    """

    path: str
    promise: str
    instead: str

    def get(self) -> Any:  # noqa: ANN401 - anything of Ray's
        """The object itself.

        Raises:
            ImportError, AttributeError: this Ray does not have it.
        """
        return pkgutil.resolve_name(self.path)


NO_CLUSTER = "a cluster that does not answer, or rejects the token, is refused within 10 seconds"
_TOKENS = "ray._private.authentication.authentication_token_setup"
FIND_ADDRESS = PrivateName(
    "ray._private.services:canonicalize_bootstrap_address",
    NO_CLUSTER,
    "the address of the cluster that ray.init() would join",
)
CONTROL_SERVICE = PrivateName(
    "ray._raylet:GcsClient", NO_CLUSTER, "one request to a cluster, with a time limit"
)
FIND_TOKEN = PrivateName(
    f"{_TOKENS}:maybe_enable_token_auth_if_token_available",
    NO_CLUSTER,
    "a check of the token by that request",
)
REQUIRE_TOKEN = PrivateName(
    f"{_TOKENS}:ensure_token_if_auth_enabled",
    NO_CLUSTER,
    "an exception where the token is missing; the request ends the process",
)
DRAINING_NODES = PrivateName(
    "ray._private.state:state.get_draining_nodes",
    "workers of a node that is drained save and start again elsewhere",
    "a function for the nodes that are being drained; ray.train.get_preemption_info() is a barrier "
    "of all workers, too slow for each step",
)
FREE_RESOURCES = PrivateName(
    "ray._private.state:state.available_resources_per_node",
    "a range of workers starts with as many as fit, and a run says what it waits for",
    "ray.available_resources() for each node",
)
_ERRORS = "ray.train.v2._internal.exceptions"
START_TIMEOUT = PrivateName(
    f"{_ERRORS}:WorkerGroupStartupTimeoutError",
    "waiting for room on the cluster is no failure",
    "a public exception of ray.train",
)
DEAD_WORKER = PrivateName(
    f"{_ERRORS}:WorkerHealthCheckFailedError",
    "a failure is named by its cause: killed, crashed or a dead node",
    "a public exception of ray.train",
)
SILENT_WORKER = PrivateName(
    f"{_ERRORS}:WorkerHealthCheckTimeoutError",
    "a failure is named by its cause: a worker that hangs",
    "a public exception of ray.train",
)
TUNE_CONTROLLER = PrivateName(
    "ray.tune.execution.tune_controller:TuneController",
    "trials save a checkpoint when a sweep is stopped",
    "TUNE_FORCE_TRIAL_CLEANUP_S for the end of a whole experiment, which gives 10 seconds",
)
GROUP_ID = PrivateName(
    "ray._raylet:PlacementGroupID",
    "a trial whose process was killed is retried with the resources that its workers held",
    "a placement group by the id that ray.util.placement_group_table() shows; Ray Train's own "
    "cleaner needs the dashboard",
)
TRAINER = PrivateName(
    "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer",
    "the first step of a job does not wait until a process that trains nothing has imported torch",
    "a trainer for any function in ray.train; TorchTrainer, a subclass, imports torch in the "
    "process that watches the workers",
)
# An attribute of its instances, which assigning to would only create.
STOP_TIMEOUT_ATTRIBUTE = "_actor_force_cleanup_timeout"
# Of an instance of TRAINER: a method for its callbacks. That for datasets of Ray Data, which no job
# has, starts a process that imports Ray Train beside the workers. Without these names it does so.
CALLBACKS_ATTRIBUTE = "_create_default_callbacks"
DATASETS_CALLBACK = "DatasetsCallback"

NAMES = (
    *(FIND_ADDRESS, CONTROL_SERVICE, FIND_TOKEN, REQUIRE_TOKEN, DRAINING_NODES, FREE_RESOURCES),
    *(START_TIMEOUT, DEAD_WORKER, SILENT_WORKER, TUNE_CONTROLLER, GROUP_ID, TRAINER),
)


def check_ray() -> None:
    """Check that this Ray has every private name that a job needs.

    Raises:
        BadInputError: naming what is gone, what needs it, and the releases that have it.
    """
    _refuse(_missing(name for name in NAMES if name is not TUNE_CONTROLLER))


def check_tune() -> None:
    """The same of Ray Tune, which only trials need: importing it takes most of a second.

    Raises:
        BadInputError: as ``check_ray``.
    """
    missing = _missing([TUNE_CONTROLLER])
    if not missing:
        assigned = TUNE_CONTROLLER.get().__init__.__code__.co_names
        if STOP_TIMEOUT_ATTRIBUTE not in assigned:
            path = f"{TUNE_CONTROLLER.path}.{STOP_TIMEOUT_ATTRIBUTE}"
            missing.append((path, TUNE_CONTROLLER.promise))
    _refuse(missing)


def _refuse(missing: list[tuple[str, str]]) -> None:
    """Raise what ``check_ray`` does, if there is any."""
    problems = [
        Problem(
            "ray",
            f"{ray.__version__} lacks {path.replace(':', '.')}, needed for this: {promise}",
            f"install one that has it: pip install 'ray[default,train,tune]{SUPPORTED}'",
        )
        for path, promise in missing
    ]
    if problems:
        raise BadInputError("environment", problems)


def _missing(names: Iterable[PrivateName]) -> list[tuple[str, str]]:
    """Path and promise of each name that is gone."""
    missing = []
    for name in names:
        try:
            name.get()
        except (ImportError, AttributeError):
            missing.append((name.path, name.promise))
    return missing


def cluster_address() -> str | None:
    """Address of the cluster that ``ray.init()`` would join; None if it would start one.

    Raises:
        ValueError: RAY_ADDRESS is not an address.
        ConnectionError: it is "auto", and no cluster runs on this machine.
    """
    address: str | None = FIND_ADDRESS.get()(None)
    return address


def check_control_service(address: str, *, is_found: bool) -> None:
    """Make one request to a cluster's control service, which something must answer.

    ``is_found``: Ray found the cluster on this machine; then it looks for a token there too.

    Raises:
        AuthenticationError: it rejects the token, or there is none.
        RayError: what listens there is not a control service.
    """
    if is_found:
        FIND_TOKEN.get()(warn_if_disabled=False)
    # Without it, the request below ends the process where a token is required and missing.
    REQUIRE_TOKEN.get()(None, create_token_if_missing=False)
    CONTROL_SERVICE.get()(address=address)


def draining_nodes() -> set[str]:
    """Ids of the nodes that are being drained.

    Raises:
        Exception: of many kinds, while the cluster's control service does not answer.
    """
    return set(DRAINING_NODES.get()())


def free_resources_per_node() -> dict[str, dict[str, float]]:
    """Resources that are free on each node, by node id, without nodes that are being drained.

    Raises:
        Exception: of many kinds, while the cluster's control service does not answer.
    """
    draining = draining_nodes()
    available: dict[str, dict[str, float]] = FREE_RESOURCES.get()()
    return {node: free for node, free in available.items() if node not in draining}


def placement_group_of(hex_id: str) -> PlacementGroup:
    """The placement group with this id, whoever created it.

    Raises:
        ValueError: it is not an id.
    """
    group_id = GROUP_ID.get()
    # Ray takes any other text for the id of no group.
    if not re.fullmatch(r"[0-9a-f]+", hex_id) or len(hex_id) != len(group_id.nil().hex()):
        raise ValueError(f"{hex_id!r} is not the id of a placement group")
    return PlacementGroup(group_id.from_hex(hex_id))


def make_trainer(work: Callable[..., None], **options: Any) -> Any:  # noqa: ANN401 - Ray's types
    """Ray Train's trainer of a function, without what is for datasets of Ray Data."""
    trainer = TRAINER.get()(work, **options)
    if create := getattr(trainer, CALLBACKS_ATTRIBUTE, None):
        setattr(trainer, CALLBACKS_ATTRIBUTE, lambda: _without_datasets(create()))
    return trainer


def _without_datasets(callbacks: list[Any]) -> list[Any]:
    return [each for each in callbacks if type(each).__name__ != DATASETS_CALLBACK]


def is_start_timeout(error: Exception) -> bool:
    """Whether Ray Train's controller failed because there was no room for the workers in time."""
    return isinstance(error, START_TIMEOUT.get())


def is_dead_worker(error: Exception) -> bool:
    """Whether a worker's failure is the end of its process; its cause has the reason."""
    return isinstance(error, DEAD_WORKER.get())


def is_silent_worker(error: Exception) -> bool:
    """Whether a worker's failure is that it did not answer in time."""
    return isinstance(error, SILENT_WORKER.get())


def set_trial_stop_timeout(tune_controller: Any, timeout_s: float) -> None:  # noqa: ANN401 - Ray's type
    """Seconds that Tune gives its trials to end when it is stopped; its default is 10."""
    assert hasattr(tune_controller, STOP_TIMEOUT_ATTRIBUTE), "check_tune has found it"
    setattr(tune_controller, STOP_TIMEOUT_ATTRIBUTE, timeout_s)
