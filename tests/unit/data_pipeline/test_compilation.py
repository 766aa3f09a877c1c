"""Where the compiled code is cached: a folder that the user can write, and nobody else."""

import os
import stat
import tempfile

import pytest

from data_pipeline.compiled import compilation

OWN = f"dtkd-service-{os.getuid()}"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Neither the package nor the home directory can be written, by root either."""
    package, temporary = tmp_path / "package", tmp_path / "temporary"
    package.mkdir()
    temporary.mkdir()
    (package / "module.py").write_text("A = 1\n")
    (package / "__pycache__").touch()
    (tmp_path / "home").touch()
    monkeypatch.setattr(compilation, "PACKAGE", package)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    return tmp_path


def test_first_folder_that_can_be_written_is_used(folders, monkeypatch):
    assert compilation.cache_folder().parent == folders / "temporary" / OWN
    assert stat.S_IMODE((folders / "temporary" / OWN).stat().st_mode) == 0o700
    monkeypatch.setenv("HOME", str(folders / "other"))
    assert compilation.cache_folder().parent == folders / "other" / ".cache" / "dtkd-service"
    (folders / "package" / "__pycache__").unlink()
    assert compilation.cache_folder().parent == folders / "package" / "__pycache__"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(folders / "given"))
    assert compilation.cache_folder().parent == folders / "given"


@pytest.mark.parametrize("kind", ["link", "open to others", "of another user", "file"])
def test_folder_that_somebody_else_prepared_is_not_used(folders, kind):
    path = folders / "temporary" / OWN
    if kind == "link":
        (folders / "prepared").mkdir(mode=0o700)
        path.symlink_to(folders / "prepared")
    elif kind == "file":
        path.touch()
    else:
        path.mkdir(mode=0o700)
    if kind == "open to others":
        path.chmod(0o777)
    if kind == "of another user":
        if os.getuid() != 0:
            pytest.skip("changing the owner needs root")
        os.chown(path, 12345, 12345)
    found = compilation.cache_folder().parent
    assert found != path
    assert found.parent == folders / "temporary"
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    assert compilation.cache_folder().parent != found


def test_change_of_a_source_changes_the_folder(folders):
    before = compilation.cache_folder()
    (folders / "package" / "module.py").write_text("A = 2\n")
    assert compilation.cache_folder() != before
