"""A process that gives no sign of life is ended; one that is only busy is not."""

import signal
import subprocess
import sys
import time

import pytest

from service.cluster.failures import HANG_TEXT, KILLED_TEXT
from service.trials.watchdog import Watchdog, death_text

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
    assert death_text(tmp_path) == (HANG_TEXT if expected else KILLED_TEXT)
    # The next process of the run may die in another way.
    Watchdog(tmp_path, 60.0).close()
    assert death_text(tmp_path) == KILLED_TEXT


def test_crash_is_named_by_what_the_process_left(tmp_path):
    program = (
        "import ctypes, sys; from pathlib import Path; from service.cluster.crashes import *\n"
        "with record_crash(Path(sys.argv[1]), 0): ctypes.string_at(0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, check=False
    )
    assert result.returncode == -signal.SIGSEGV
    assert "crashed in native code (Segmentation fault)" in death_text(tmp_path)
