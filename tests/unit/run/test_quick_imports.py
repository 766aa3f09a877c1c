"""Nothing is collected while libraries are imported, and everything again afterwards."""

import gc

import pytest

from service.run.imports import quick_imports


def test_collection_is_off_during_the_imports_only():
    with quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_failed_import_leaves_collection_on():
    with pytest.raises(ImportError), quick_imports():
        raise ImportError
    assert gc.isenabled()
