"""Keeps the root logger as it was around code that changes it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Restore the root logger's level and handlers afterwards.

    MLflow's module for PyTorch calls ``logging.basicConfig(level=ERROR)`` when it is first
    imported, after which warnings of this service would not be shown.
    """
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
