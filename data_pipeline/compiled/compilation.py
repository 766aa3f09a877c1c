"""Compiles the inner loops with numba: without the GIL, and once for all processes.

numba caches machine code on disk and checks for changes only the file of a function, not the files
of the functions that it calls. Here the cache folder is named by a digest of all sources, so a
change anywhere invalidates the cache.
"""

import hashlib
from pathlib import Path

import numba

from data_pipeline.cache_folders import first_writable

PACKAGE = Path(__file__).parents[1]


def cache_folder() -> Path:
    """The first folder for the machine code that this user can write.

    In NUMBA_CACHE_DIR, else in the package's __pycache__, in the user's cache, or in a folder of
    the user in the temporary one.
    """
    sources = sorted(PACKAGE.rglob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return first_writable(f"numba-{digest[:16]}", "NUMBA_CACHE_DIR", PACKAGE / "__pycache__")


numba.config.CACHE_DIR = str(cache_folder())

compiled = numba.njit(nogil=True, cache=True)
"""Decorator of functions that are compiled to machine code when they are first called."""
