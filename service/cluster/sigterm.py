"""SIGTERM in a worker process is a notice to stop.

Apart from what else a worker does: the process that watches the workers refers to the handler, and
would import the rest, too, before it starts them.
"""

import signal

received_signals: list[int] = []
"""Those since the last run of this process began."""


def install_sigterm_handler() -> None:
    """Take SIGTERM as a notice to stop; must run in the process's main thread."""
    signal.signal(signal.SIGTERM, lambda number, _: received_signals.append(number))
