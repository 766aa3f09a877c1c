"""Decoding starts when batches are asked for, on threads that give way to the program's own."""

import os
import threading
import time
from pathlib import Path

import numpy as np
from support.loading_helpers import CROP
from support.spec_contents import write_stripes

from data_pipeline import decoders
from data_pipeline.beton import open_beton
from data_pipeline.decode_threads import MAX_NICE, NICE_STEPS, decode_threads
from data_pipeline.loader import NUM_BATCHES_AHEAD, ImageLoader

LIMIT_S = 20.0


def nice_of(thread):
    """As Linux reports it: the 19th field of a thread's statistics (proc(5))."""
    text = Path(f"/proc/self/task/{thread}/stat").read_text()
    return int(text.rpartition(")")[2].split()[16])


def test_threads_are_nicer_than_the_program_and_run_on_the_given_cpus():
    before, cpu = nice_of(threading.get_native_id()), min(os.sched_getaffinity(0))
    with decode_threads(1, {cpu}) as pool:
        thread = pool.submit(threading.get_native_id).result()
        assert nice_of(thread) == min(MAX_NICE, before + NICE_STEPS)
        assert os.sched_getaffinity(thread) == {cpu}
    assert nice_of(threading.get_native_id()) == before
    assert os.sched_getaffinity(0) >= {cpu}


def test_threads_decode_also_where_nothing_about_them_may_be_changed(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with decode_threads(1, {0}) as pool:
        assert pool.submit(pow, 2, 3).result() == 8


def test_first_batches_are_decoded_before_they_are_taken_and_no_more(tmp_path, monkeypatch):
    write_stripes(tmp_path / "a.beton", 64, seed=0)
    started, decode = [], decoders.decode_samples

    def record(descriptor, rows, indices, *arguments):
        started.append(indices.tolist())
        decode(descriptor, rows, indices, *arguments)

    monkeypatch.setattr(decoders, "decode_samples", record)
    wanted = np.arange(64).reshape(16, 4)
    with ImageLoader(open_beton(tmp_path / "a.beton"), seed=0, num_threads=1) as loader:
        batches = loader.batches(iter(wanted), CROP)
        deadline_s = time.monotonic() + LIMIT_S
        while len(started) < NUM_BATCHES_AHEAD:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        time.sleep(0.1)
        assert started == wanted[:NUM_BATCHES_AHEAD].tolist()
        found = [batch.indices.tolist() for batch in batches]
    assert found == started == wanted.tolist()
