"""Whether this worker must leave soon: a SIGTERM, or its node is being drained."""

import signal

from ray.train.v2._internal.execution.context import get_train_context

_received: list[int] = []


def listen_for_sigterm() -> None:
    """Take SIGTERM for a notice instead of an end; must run in the process's main thread."""
    signal.signal(signal.SIGTERM, lambda number, _: _received.append(number))


def reason_to_leave() -> str | None:
    """Why this worker must leave soon, or None."""
    if _received:
        return "a worker was sent SIGTERM"
    info = get_train_context().preemption_context.preemption_info
    return None if info is None else "a node is being drained"
