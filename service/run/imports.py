"""Imports of large libraries at the start of a process."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Import without collecting garbage meanwhile, which would take a fifth of the time.

    Importing torch creates millions of objects; they stay, and each collection looks at them again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
