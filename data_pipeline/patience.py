"""Trying again what storage refuses for a while: after 1, 5 and 25 seconds, then no more."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

PAUSES_S = (1.0, 5.0, 25.0)

Result = TypeVar("Result")


def patiently(action: Callable[[], Result], pauses_s: Sequence[float] = PAUSES_S) -> Result:
    """Do something with files, again after each pause where the storage fails.

    Raises:
        OSError: it failed after the last pause too.
    """
    for pause_s in pauses_s:
        try:
            return action()
        except OSError:
            time.sleep(pause_s)
    return action()
