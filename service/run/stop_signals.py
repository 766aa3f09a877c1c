"""SIGTERM and SIGINT in a job's driver: what has begun is saved or undone, and the job stops."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class JobStoppedError(BaseException):
    """Ends a job that was stopped while no workers train; no handler of errors may catch it."""


class StopSignals:
    """Whether the job must stop.

    A signal by itself interrupts nothing: files, databases and clusters would be left half-written.
    The job calls ``check`` between its parts; ``interruptible`` and ``on_first_signal`` are for
    parts that take long.
    """

    def __init__(self) -> None:
        self.is_set = False
        """Whether a signal has arrived."""
        self._interrupts = False
        self._request: Callable[[], None] | None = None

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals; the handlers before are restored when the context ends."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def install(self) -> None:
        """Install the handlers, again after ``ray.init()``, whose native code has its own."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def check(self) -> None:
        """End the job if it must stop.

        Raises:
            JobStoppedError: a signal has arrived.
        """
        if self.is_set:
            raise JobStoppedError

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A part that may be interrupted anywhere.

        Raises:
            JobStoppedError: a signal arrives, or has arrived.
        """
        self._interrupts = True
        try:
            self.check()
            yield
            self.check()
        finally:
            self._interrupts = False

    @contextlib.contextmanager
    def on_first_signal(self, request: Callable[[], None]) -> Iterator[None]:
        """A part that ends early after ``request`` was called, on the first signal."""
        self._request = request
        try:
            if self.is_set:
                request()
            yield
        finally:
            self._request = None

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Python's interface
        is_first, self.is_set = not self.is_set, True
        if self._interrupts:
            # Only once: the second one would interrupt the cleanup.
            self._interrupts = False
            raise JobStoppedError
        if is_first and self._request is not None:
            self._request()
