"""Datasets of random bytes to stage, a count of what is fetched, and a process to kill.

Run as a script: stage LOCATION into CACHE once a line arrives on stdin, noting every fetched chunk.
"""

import collections
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from data_pipeline.beton import BetonError
from data_pipeline.staging import Cache, fetch, stage, verify
from data_pipeline.staging.remote import RemoteFile

CHUNK_BYTES = 64 << 10
NUM_BYTES = 16 * CHUNK_BYTES - 100


DiskUsage = collections.namedtuple("DiskUsage", "total used free")


def quiet(text):
    """Take no notice of progress."""


def put(location, cache):
    """Stage and let go at once; returns the path."""
    with stage(location, cache, report=quiet) as staged:
        return staged.path


def make_dataset(folder, name="train", seed=0, num_bytes=NUM_BYTES):
    """NAME.beton of random bytes with its manifest; returns the location and the bytes."""
    content = np.random.default_rng(seed).bytes(num_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.beton"
    path.write_bytes(content)
    manifest = {"fingerprint": hashlib.sha256(content).hexdigest(), "num_bytes": num_bytes}
    Path(f"{path}.json").write_text(json.dumps(manifest))
    return str(path), content


def check_digest(path, num_threads=1):
    """Stands for both checks: the bytes against the fingerprint, which is their SHA-256 here."""
    manifest = json.loads(Path(f"{path}.json").read_text())
    if hashlib.sha256(path.read_bytes()).hexdigest() != manifest["fingerprint"]:
        raise BetonError(f"{path} differs from its manifest")


def instrument(setattr_, log_path, delay_s=0.0):
    """Note the bytes of each fetch after a delay, use small chunks and the stand-in check."""
    read_range = RemoteFile.read_range

    def noted_read_range(file, offset, num_bytes):
        time.sleep(delay_s)
        data = read_range(file, offset, num_bytes)
        with log_path.open("a") as log:
            log.write(f"{len(data)}\n")
        return data

    setattr_(RemoteFile, "read_range", noted_read_range)
    setattr_(fetch, "CHUNK_BYTES", CHUNK_BYTES)
    setattr_(fetch, "NUM_THREADS", 2)
    setattr_(fetch, "BACKOFF_S", 0.01)
    setattr_(verify, "check_quickly", check_digest)
    setattr_(verify, "check_samples", check_digest)


def num_fetched_bytes(log_path):
    return sum(int(line) for line in log_path.read_text().split()) if log_path.exists() else 0


def start_worker(location, cache_path, log_path, delay_s):
    """A process that is ready to stage; it begins when a line is written to its stdin."""
    command = [sys.executable, __file__, location, cache_path, log_path, str(delay_s)]
    worker = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert worker.stdout.readline() == "ready\n"
    return worker


def kill_while_copying(location, cache_path, log_path):
    """Stage in a process and SIGKILL it midway; returns the number of chunks that it noted."""
    worker = start_worker(location, cache_path, log_path, delay_s=0.1)
    worker.stdin.write("go\n")
    deadline_s = time.monotonic() + 20
    while _num_noted(cache_path) < 5:
        assert time.monotonic() < deadline_s
        assert worker.poll() is None
        time.sleep(0.01)
    worker.kill()
    worker.communicate()
    return _num_noted(cache_path)


def _num_noted(cache_path):
    logs = list(cache_path.glob("*/*.partial.chunks"))
    return logs[0].read_text().count("\n") - 1 if logs else 0


if __name__ == "__main__":
    instrument(setattr, Path(sys.argv[3]), float(sys.argv[4]))
    print("ready", flush=True)
    sys.stdin.readline()
    with stage(sys.argv[1], Cache(Path(sys.argv[2])), report=lambda text: None) as staged:
        print(staged.path, flush=True)
