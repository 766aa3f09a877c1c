"""Imports of large libraries at the start of a process."""

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Import without collecting garbage meanwhile, which would take a fifth of the time.

    Importing torch creates millions of objects, and they stay: later collections do not look at
    them either. Where all was imported before, as in a process that trains one run after another,
    nothing is exempted from these.
    """
    num_modules = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > num_modules:
            gc.freeze()
        gc.enable()
