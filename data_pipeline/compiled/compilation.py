"""Compiles the inner loops with numba: without the GIL, and once for all processes.

numba caches machine code on disk and checks for changes only the file of a function, not the files
of the functions that it calls. Here the cache folder is named by a digest of all sources, so a
change anywhere invalidates the cache.
"""

import hashlib
import os
from pathlib import Path

import numba

PACKAGE = Path(__file__).parents[1]


def _cache_folder() -> Path:
    """A folder in NUMBA_CACHE_DIR, else in the package's __pycache__, else in the user's cache."""
    sources = sorted(PACKAGE.rglob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    pycache = PACKAGE / "__pycache__"
    if override := os.environ.get("NUMBA_CACHE_DIR"):
        folder = Path(override)
    elif os.access(pycache if pycache.exists() else PACKAGE, os.W_OK):
        folder = pycache
    else:
        folder = Path.home() / ".cache" / "dtkd-service"
    return folder / f"numba-{digest[:16]}"


numba.config.CACHE_DIR = str(_cache_folder())

compiled = numba.njit(nogil=True, cache=True)
"""Decorator of functions that are compiled to machine code when they are first called."""
