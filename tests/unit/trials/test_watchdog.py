"""A process that gives no sign of life is ended; one that is only busy is not."""

import signal
import subprocess
import sys
import time

import pytest

from service.trials.watchdog import has_hung

TIMEOUT_S = 1.5
PROGRAM = """
import ctypes, sys, time
from pathlib import Path
from service.trials.watchdog import Watchdog

watchdog = Watchdog(Path(sys.argv[1]), float(sys.argv[2]))
print("watched", flush=True)
{act}
watchdog.close()
"""
# A call of PyDLL keeps Python's lock, as native code that hangs may.
ACTS = {
    "holds the lock": "ctypes.PyDLL(None).sleep(60)",
    "is stopped": "time.sleep(60)",
    "is busy": "end = time.monotonic() + 4\nwhile time.monotonic() < end: sum(range(10**5))",
}


@pytest.mark.parametrize("act", ACTS)
def test_process_that_hangs_is_killed(tmp_path, act):
    command = [sys.executable, "-c", PROGRAM.format(act=ACTS[act]), str(tmp_path), str(TIMEOUT_S)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"watched\n"
    if act == "is stopped":
        process.send_signal(signal.SIGSTOP)
    expected = 0 if act == "is busy" else -signal.SIGKILL
    start_s = time.monotonic()
    assert process.wait(timeout=50) == expected
    assert time.monotonic() - start_s < 40
    assert has_hung(tmp_path) == (expected != 0)
    assert not has_hung(tmp_path)
