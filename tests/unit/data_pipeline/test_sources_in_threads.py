import io
import os
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from data_pipeline.sources import open_source, tar_images

NUM_TARS = 8
MAX_OPEN = 2


def content(number):
    return f"pixels of {number}".encode() * 20


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Shards of one image each, of which few may be open at a time."""
    monkeypatch.setattr(tar_images, "MAX_OPEN_TARS", MAX_OPEN)
    for number in range(NUM_TARS):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            for name, data in (("k.jpg", content(number)), ("k.cls", b"0")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return open_source(tmp_path)


def test_tar_can_be_closed_by_another_thread_while_it_is_read(source, monkeypatch):
    pread, num_interrupted = os.pread, 0

    def interrupted(descriptor, size, offset):
        nonlocal num_interrupted
        monkeypatch.setattr(os, "pread", pread)
        num_interrupted += 1
        with ThreadPoolExecutor(1) as other:
            assert list(other.map(lambda index: source.read(index).image, range(1, NUM_TARS))) == [
                content(index) for index in range(1, NUM_TARS)
            ]
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", interrupted)
    assert source.read(0).image == content(0)
    assert num_interrupted == 1


def test_threads_read_what_one_thread_reads(source):
    indices = [index for start in range(400) for index in (start % NUM_TARS, start % 3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda index: source.read(index).image, indices))
    finally:
        sys.setswitchinterval(interval)
    assert found == [content(index) for index in indices]
