"""Threads that decode images beside a program that computes on the same CPUs.

They run at a lower priority: they use what the program leaves of its CPUs, all of it while it waits
for images, and little while it computes. So how many CPUs decode need not be chosen: a small
network, which waits for images, and a large one, which does not, get what each of them needs.
"""

import contextlib
import os
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

NICE_STEPS = 10
"""By how much the threads are nicer than the program; the scheduler gives them a tenth then."""
MAX_NICE = 19


def decode_threads(num_threads: int, cpus: Collection[int] | None = None) -> ThreadPoolExecutor:
    """A pool of threads with a lower priority than that of the thread that calls this.

    ``cpus``: numbers of the CPUs that they may run on; those of the process by default.
    """
    nice = min(MAX_NICE, os.getpriority(os.PRIO_PROCESS, 0) + NICE_STEPS)
    return ThreadPoolExecutor(num_threads, "decode", _prepare_thread, (nice, cpus))


def _prepare_thread(nice: int, cpus: Collection[int] | None) -> None:
    """Linux has a priority and CPUs for each thread; a sandbox may forbid to change them."""
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, nice)
    if cpus is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread, cpus)
