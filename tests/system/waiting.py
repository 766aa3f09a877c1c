"""Waiting for what a server does in its own time."""

import time

POLL_S = 0.2


def wait_until(condition, what, limit_s):
    """Wait until ``condition()`` is true; ``what`` names it in the error."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"no {what} within {limit_s:.0f} s")
        time.sleep(POLL_S)
