"""Frees space for a new dataset in the cache by evicting others."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack

from data_pipeline.shared_folders import Shortage, choose_victims, shortage_of
from data_pipeline.staging.cache import Cache, Entry
from data_pipeline.staging.remote import StagingError
from data_pipeline.text import format_bytes


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
        others.sort(key=lambda other: (other.find() is not None, other.last_use_s()))
        shortage = _shortage(cache, entry, others, num_bytes)
        victims, missing = choose_victims(others, shortage, claims)
        if missing.is_any:
            raise no_space_error(cache, entry, num_bytes)
        for victim in victims:
            path = victim.find()
            name = path.name if path else f"partial copy {victim.key}"
            report(f"evicting {name} ({format_bytes(victim.size().num_bytes)})")
            victim.remove()


def no_space_error(cache: Cache, entry: Entry, num_bytes: int) -> StagingError:
    """The error for a dataset of ``num_bytes`` bytes that does not fit into the cache."""
    others = [other for other in cache.entries() if other.key != entry.key]
    others_bytes = sum(other.size().num_bytes for other in others)
    limit = "none" if cache.limit_bytes is None else format_bytes(cache.limit_bytes)
    return StagingError(
        f"{cache.path} has no space for a dataset of {format_bytes(num_bytes)}: the disk has "
        f"{format_bytes(shutil.disk_usage(cache.path).free)} free, the cache's limit is {limit}, "
        f"and other datasets there take {format_bytes(others_bytes)}, of which those in use are "
        "not evicted; raise the limit, free the disk, or give a cache path on a larger disk"
    )


def _shortage(cache: Cache, entry: Entry, others: list[Entry], num_bytes: int) -> Shortage:
    of_limit = 0
    if cache.limit_bytes is not None:
        of_others = sum(other.size().num_bytes for other in others)
        of_limit = num_bytes + of_others - cache.limit_bytes
    growing = num_bytes - entry.size().num_allocated_bytes
    return shortage_of(cache.path, of_limit=of_limit, num_growing_bytes=growing)
