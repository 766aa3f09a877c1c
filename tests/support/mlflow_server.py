"""A real MLflow server behind a proxy that can delay, refuse or never answer requests."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

START_LIMIT_S = 90.0


class Line:
    """A TCP proxy on loopback. ``mode`` is up, refused, or dead: accepts, but never answers."""

    def __init__(self, target_port):
        self._target_port = target_port
        self.mode = "up"
        self.delay_s = 0.0
        self._num_left = None
        self._open = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def set(self, mode, delay_s=0.0, num_pieces=None):
        """Change the mode and close open connections.

        After ``num_pieces`` received pieces of requests, the mode becomes refused.
        """
        self.mode, self.delay_s, self._num_left = mode, delay_s, num_pieces
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self):
        self.set("refused")
        self._listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self.mode == "refused":
                # With a linger time of 0, close() resets the connection.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.close()
                continue
            self._open.append(connection)
            if self.mode != "dead":
                threading.Thread(target=self._carry, args=(connection,), daemon=True).start()

    def _count(self):
        if self._num_left is not None:
            self._num_left -= 1
            if self._num_left < 0:
                self.set("refused")

    def _carry(self, connection):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._target_port)) as server,
        ):
            self._open.append(server)
            while True:
                ready, _, _ = select.select([connection, server], [], [])
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        connection.close()
                        return
                    if source is connection:
                        self._count()
                        time.sleep(self.delay_s)
                    (server if source is connection else connection).sendall(data)


@contextlib.contextmanager
def mlflow_server(folder: Path):
    """Yield the port of a server that stores everything in ``folder``."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    # The runner of background jobs starts several processes that the tests do not need.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline_s = time.monotonic() + START_LIMIT_S
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            if time.monotonic() > deadline_s or process.poll() is not None:
                raise TimeoutError((folder / "server.log").read_text())
            time.sleep(0.2)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
