"""Random datasets to stage, a log of the fetched bytes, and a process that a test can kill.

Run as a script, it stages LOCATION into CACHE after a line arrives on stdin and logs every chunk.
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
    """Ignore progress messages."""


def put(location, cache):
    """Stage and release immediately; returns the path."""
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
    """Replaces both checks of a dataset: these fingerprints are the SHA-256 of the bytes."""
    manifest = json.loads(Path(f"{path}.json").read_text())
    if hashlib.sha256(path.read_bytes()).hexdigest() != manifest["fingerprint"]:
        raise BetonError(f"{path} differs from its manifest")


def instrument(setattr_, log_path, delay_s=0.0):
    """Log the bytes of each fetch after a delay; use small chunks and ``check_digest``."""
    read_range = RemoteFile.read_range

    def logged_read_range(file, offset, num_bytes):
        time.sleep(delay_s)
        data = read_range(file, offset, num_bytes)
        with log_path.open("a") as log:
            log.write(f"{len(data)}\n")
        return data

    setattr_(RemoteFile, "read_range", logged_read_range)
    setattr_(fetch, "CHUNK_BYTES", CHUNK_BYTES)
    setattr_(fetch, "NUM_THREADS", 2)
    setattr_(fetch, "BACKOFF_S", 0.01)
    setattr_(verify, "check_quickly", check_digest)
    setattr_(verify, "check_samples", check_digest)


def num_fetched_bytes(log_path):
    return sum(int(line) for line in log_path.read_text().split()) if log_path.exists() else 0


def start_worker(location, cache_path, log_path, delay_s):
    """Start a process that stages after a line is written to its stdin."""
    command = [sys.executable, __file__, location, cache_path, log_path, str(delay_s)]
    worker = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert worker.stdout.readline() == "ready\n"
    return worker


def kill_while_copying(location, cache_path, log_path):
    """Stage in a process and SIGKILL it midway; returns the number of chunks that it logged."""
    worker = start_worker(location, cache_path, log_path, delay_s=0.1)
    worker.stdin.write("go\n")
    deadline_s = time.monotonic() + 20
    while _num_logged(cache_path) < 5:
        assert time.monotonic() < deadline_s
        assert worker.poll() is None
        time.sleep(0.01)
    worker.kill()
    worker.communicate()
    return _num_logged(cache_path)


def _num_logged(cache_path):
    logs = list(cache_path.glob("*/*.partial.chunks"))
    return logs[0].read_text().count("\n") - 1 if logs else 0


if __name__ == "__main__":
    instrument(setattr, Path(sys.argv[3]), float(sys.argv[4]))
    print("ready", flush=True)
    sys.stdin.readline()
    with stage(sys.argv[1], Cache(Path(sys.argv[2])), report=lambda text: None) as staged:
        print(staged.path, flush=True)
