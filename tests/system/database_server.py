"""A Postgres of this machine, as the manifests start theirs: with their script, in a folder."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "deploy/kubernetes/platform/scripts"
START_LIMIT_S = 60.0
USER = "postgres"


def find_programs():
    """The folder with Debian's newest Postgres, or that of the path; None if there is none."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    found = str(debian[-1]) if debian else shutil.which("postgres")
    return Path(found).parent if found else None


class DatabaseServer:
    """MLflow's databases, owned by the user mlflow; ``environment`` is what its pods have."""

    def __init__(self):
        # pytest's folders are closed to the user that Postgres runs as.
        self._folder, self._bin = Path(tempfile.mkdtemp(prefix="dtkd-postgres-")), find_programs()
        # Postgres refuses to run as root.
        self._as_user = ["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []
        self.port = free_port()
        superuser, password = secrets.token_hex(8), secrets.token_hex(8)
        (self._folder / "password").write_text(superuser)
        if self._as_user:
            for path in (self._folder, self._folder / "password"):
                shutil.chown(path, USER, USER)
        self._initialize()
        self._process = self._start()
        address = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port)}
        self.environment = {**os.environ, **address, "PGUSER": "mlflow", "PGPASSWORD": password}
        self._superuser = superuser
        self._run_script("create-databases.sh", password)

    def set_passwords(self, password):
        """Give MLflow's user another password, as after its Secret has changed."""
        self._run_script("set-passwords.sh", password)

    def _run_script(self, name, password):
        # Pods have the superuser's password and that of MLflow's user.
        own = {"MLFLOW_PASSWORD": password, "POSTGRES_PASSWORD": self._superuser}
        login = {"PGPASSWORD": self._superuser, "POSTGRES_USER": USER}
        environment = {**self.environment, **own, **login}
        subprocess.run(["bash", SCRIPTS / name], env=environment, check=True)

    def _initialize(self):
        options = ["--auth=scram-sha-256", "--data-checksums", f"--username={USER}"]
        where = [f"--pgdata={self._folder}/data", f"--pwfile={self._folder}/password"]
        command = [*self._as_user, self._bin / "initdb", *where, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def _start(self):
        where = ["-D", self._folder / "data", "-k", self._folder]
        address = ["-h", "127.0.0.1", "-p", str(self.port)]
        command = [*self._as_user, self._bin / "postgres", *where, *address]
        log = (self._folder / "log").open("w")
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", start_new_session=True)
        deadline_s = time.monotonic() + START_LIMIT_S
        ready = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready).returncode != 0:
            assert process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        return process

    def query(self, database, statement, password=None):
        """What psql prints; ``password``: of MLflow's user, if it is another than at the start."""
        command = [
            "psql",
            "--no-psqlrc",
            "-qtA",
            "-v",
            "ON_ERROR_STOP=1",
            database,
            "-c",
            statement,
        ]
        environment = {**self.environment, "PGPASSWORD": password or self.environment["PGPASSWORD"]}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def close(self):
        """Stop it, with all of its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait(timeout=30)
        shutil.rmtree(self._folder)


def free_port():
    """A port of loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
