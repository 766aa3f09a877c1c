"""How the inner loops are compiled: without the interpreter's lock, and once for all processes.

numba caches machine code on disk and looks for changes in the file of a function alone, not in the
files of the functions that it calls. Here the cache's folder is named by a digest of all sources:
code that was changed anywhere is never run stale.
"""

import hashlib
import os
from pathlib import Path

import numba


def _cache_folder() -> Path:
    """In NUMBA_CACHE_DIR, beside the sources, or in the user's own cache."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    beside = Path(__file__).parent / "__pycache__"
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        folder = Path(given)
    elif os.access(beside if beside.exists() else beside.parent, os.W_OK):
        folder = beside
    else:
        folder = Path.home() / ".cache" / "dtkd-service"
    return folder / f"numba-{digest[:16]}"


numba.config.CACHE_DIR = str(_cache_folder())

compiled = numba.njit(nogil=True, cache=True)
"""Decorator of functions that run as machine code."""
