"""Frees space for a new dataset in the cache by evicting others."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from data_pipeline.staging.cache import Cache, Entry
from data_pipeline.staging.remote import StagingError
from data_pipeline.text import format_bytes

MARGIN_BYTES = 1 << 30


@dataclass(frozen=True)
class _Shortage:
    """Missing bytes within the cache's limit and on the disk; not positive if there are enough."""

    of_limit: int
    of_disk: int

    def __bool__(self) -> bool:
        return self.of_limit > 0 or self.of_disk > 0

    def after(self, victim: Entry) -> "_Shortage":
        return _Shortage(
            self.of_limit - victim.num_bytes(), self.of_disk - victim.num_allocated_bytes()
        )


def free_space(cache: Cache, entry: Entry, num_bytes: int, report: Callable[[str], None]) -> None:
    """Evict other datasets until ``entry`` can grow to ``num_bytes`` bytes.

    Partial copies are evicted first, then the least recently used datasets; never one that a
    process stages or holds a lease on. Nothing is evicted if that would not be enough. The caller
    keeps other processes from evicting at the same time.

    Raises:
        StagingError: the dataset cannot fit; the message states the sizes and the remedy.
    """
    with ExitStack() as claims:
        others = [other for other in cache.entries() if other.key != entry.key]
        idle = [other for other in others if claims.enter_context(other.claimed())]
        idle.sort(key=lambda other: (other.find() is not None, other.last_use_s()))
        shortage = _shortage(cache, entry, others, num_bytes)
        victims = []
        while shortage and idle:
            victims.append(idle.pop(0))
            shortage = shortage.after(victims[-1])
        if shortage:
            raise no_space_error(cache, entry, num_bytes)
        for victim in victims:
            path = victim.find()
            name = path.name if path else f"partial copy {victim.key}"
            report(f"evicting {name} ({format_bytes(victim.num_bytes())})")
            victim.remove()


def no_space_error(cache: Cache, entry: Entry, num_bytes: int) -> StagingError:
    """The error for a dataset of ``num_bytes`` bytes that does not fit into the cache."""
    others = [other for other in cache.entries() if other.key != entry.key]
    others_bytes = sum(other.num_bytes() for other in others)
    limit = "none" if cache.limit_bytes is None else format_bytes(cache.limit_bytes)
    return StagingError(
        f"{cache.path} has no space for a dataset of {format_bytes(num_bytes)}: the disk has "
        f"{format_bytes(shutil.disk_usage(cache.path).free)} free, the cache's limit is {limit}, "
        f"and other datasets there take {format_bytes(others_bytes)}, of which those in use are "
        "not evicted; raise the limit, free the disk, or give a cache path on a larger disk"
    )


def _shortage(cache: Cache, entry: Entry, others: list[Entry], num_bytes: int) -> _Shortage:
    disk = shutil.disk_usage(cache.path)
    margin_bytes = min(disk.total // 100, MARGIN_BYTES)
    of_disk = num_bytes - entry.num_allocated_bytes() + margin_bytes - disk.free
    if cache.limit_bytes is None:
        return _Shortage(0, of_disk)
    total_bytes = num_bytes + sum(other.num_bytes() for other in others)
    return _Shortage(total_bytes - cache.limit_bytes, of_disk)
