"""Limits for a call of the product: time, memory, and where it may write."""

import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

LIMIT_S = 5.0
LIMIT_BYTES = 1 << 30
# Address space is reserved for the heaps and stacks of threads too.
RESERVED_BYTES = 1 << 29

CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events of Python's audit hooks; which of their arguments are paths that change, and which the
# descriptors of the folders that these are in.
CHANGES = {
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.utime": ((0, 3),),
}
COMMANDS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")


class GuardError(BaseException):
    """A limit was exceeded; no ``except Exception`` of the product catches it."""


class HangError(GuardError):
    """The call took more than LIMIT_S."""


class MemoryLimitError(GuardError):
    """The call needed more than LIMIT_BYTES."""


class OutsideWriteError(GuardError):
    """The call wrote outside the folder it may write in, or ran a command."""


class Guard:
    """A context for one call at a time; ``folder`` is where it may write.

    Time is limited in the main thread, and only where Python code runs or a system call waits.
    """

    def __init__(self, folder: Path):
        self._folder = str(folder.resolve())
        self._is_active = False
        self._outside: str | None = None
        self.peak_bytes = 0
        """The largest memory in use during any call."""
        sys.addaudithook(self._audit)

    def __enter__(self) -> Self:
        self._outside = None
        _reset_peak()
        self._start_bytes = _status_bytes("VmRSS")
        self._limits = resource.getrlimit(resource.RLIMIT_AS)
        largest = _status_bytes("VmSize") + LIMIT_BYTES + RESERVED_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (largest, self._limits[1]))
        self._handler = signal.signal(signal.SIGALRM, _raise_hang)
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        self._is_active = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_active = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._handler)
        resource.setrlimit(resource.RLIMIT_AS, self._limits)
        if self._outside is not None:
            raise OutsideWriteError(self._outside) from error
        peak_bytes = _status_bytes("VmHWM")
        self.peak_bytes = max(self.peak_bytes, peak_bytes)
        used = peak_bytes - self._start_bytes
        if used > LIMIT_BYTES:
            raise MemoryLimitError(f"{used / 1e6:,.0f} MB") from error

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_active or self._outside is not None:
            return
        if event in COMMANDS:
            self._outside = f"{event} {arguments[:2]!r}"[:200]
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITING:
                self._check(event, path)
        elif event in CHANGES:
            for position, folder in CHANGES[event]:
                descriptor = -1 if folder is None else arguments[folder]
                self._check(event, arguments[position], descriptor)

    def _check(self, event: str, path: Any, folder: int = -1) -> None:
        """``folder``: descriptor of the folder that ``path`` is relative to, -1 for the current."""
        if not isinstance(path, str | bytes | os.PathLike):
            return
        start = Path.cwd() if folder < 0 else Path(f"/proc/self/fd/{folder}")
        full = os.path.realpath(start / os.fsdecode(path))
        if not full.startswith((self._folder, "/dev/null", "/proc/self/")):
            self._outside = f"{event} {full}"


def _raise_hang(number: int, frame: FrameType | None) -> None:
    raise HangError(f"more than {LIMIT_S:g} s")


def _reset_peak() -> None:
    """Let the kernel measure VmHWM, the largest VmRSS, from now on."""
    CLEAR_REFS.write_text("5")


def _status_bytes(name: str) -> int:
    """A line of the kernel's report about this process, such as VmRSS, the memory in use."""
    return int(STATUS.read_text().split(f"{name}:")[1].split()[0]) * 1024
