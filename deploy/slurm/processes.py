"""Ending a process that may not want to."""

import subprocess


def end(process: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    """Send SIGTERM, unless it has ended, and SIGKILL after ``timeout_s``; wait for its end."""
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
