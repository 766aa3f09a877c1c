"""Nothing is collected while libraries are imported, and later all but what they have."""

import gc
import sys
import weakref
from types import ModuleType

import pytest

from service.run.imports import quick_imports


class Node:
    """An object that refers to itself, which only a collection frees."""

    def __init__(self):
        self.itself = self


@pytest.fixture(autouse=True)
def _nothing_is_exempt():
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_collection_is_off_during_the_imports_only():
    with quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_failed_import_leaves_collection_on():
    with pytest.raises(ImportError), quick_imports():
        raise ImportError
    assert gc.isenabled()


def test_imported_objects_are_exempt(monkeypatch):
    with quick_imports():
        monkeypatch.setitem(sys.modules, "a_large_library", ModuleType("a_large_library"))
        node = weakref.ref(Node())
    gc.collect()
    assert node() is not None


def test_objects_of_an_earlier_run_are_freed_where_nothing_is_imported():
    node = weakref.ref(Node())
    with quick_imports():
        pass
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert node() is None
