"""Ray over two hosts whose head keeps its state in Redis, as that of a cluster that stays does."""

import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ray_cluster import ROOT, Cluster

PORT = 6390
ANSWER_LIMIT_S = 30.0
# Redis gets its configuration on stdin: command lines can be read by everybody.
CONFIGURATION = """
bind 127.0.0.1
port {port}
requirepass {password}
dir {folder}
appendonly yes
appendfsync always
save ""
"""


class DurableCluster(Cluster):
    """A head that runs no workers, and a node that does.

    Redis runs on the head's host. Nodes have a resource of their own, "host0" and "host1", so that
    a job can say where its driver runs.
    """

    def __init__(self, folder, num_cpus):
        self._password, self._redis = secrets.token_hex(16), None
        # Paths of Ray's sockets must be short.
        self._ray_folder = Path(tempfile.mkdtemp(prefix="dtkd-", dir="/tmp"))
        super().__init__(folder, 2, num_cpus)

    def _make_environment(self):
        return {
            **super()._make_environment(),
            "RAY_REDIS_ADDRESS": f"127.0.0.1:{PORT}",
            "RAY_TMPDIR": str(self._ray_folder),
            # How long a node waits for the head, as long as KubeRay says; 60 by default.
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
        }

    def _node_options(self, number):
        options = [f'--resources={{"host{number}": 8}}']
        if number == 0:
            options += ["--num-cpus=0", f"--redis-password={self._password}"]
        return options

    def _start_all(self):
        for host in self.hosts:
            host.sees_own_processes = True
        self._start_redis()
        super()._start_all()

    def _start_redis(self):
        with (self._folder / "redis.log").open("a") as log:
            self._redis = subprocess.Popen(
                self.head.command("redis-server", "-"),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
            )
        configuration = CONFIGURATION.format(
            port=PORT, password=self._password, folder=self._folder
        )
        self._redis.stdin.write(configuration)
        self._redis.stdin.close()
        deadline_s = time.monotonic() + ANSWER_LIMIT_S
        while self.redis("PING", password=self._password) != "PONG":
            assert time.monotonic() < deadline_s, (self._folder / "redis.log").read_text()
            time.sleep(0.1)

    def redis(self, *words, password=None):
        """The answer to a command of a client with this password, or with none."""
        environment = {} if password is None else {"REDISCLI_AUTH": password}
        command = self.head.command("redis-cli", "-p", PORT, *words)
        done = subprocess.run(
            command,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()

    def kill_head(self):
        """Kill all of Ray's processes on the head's host, and Redis, as a loss of power does."""
        self._stop_query_server()
        self.nodes[0].kill()
        self._redis.kill()
        self._redis.wait()

    def restart_head(self):
        """Start Redis with what it has on disk, and the head at the same address."""
        self._start_redis()
        self.start(0)

    def submit_on(self, number, spec_path, name):
        """Submit a job whose driver runs on a host; returns when Ray has accepted it."""
        command = [*("ray", "job", "submit"), f"--address={self.dashboard_url}", "--no-wait"]
        command += [f"--submission-id={name}", f'--entrypoint-resources={{"host{number}": 1}}']
        command += ["--", sys.executable, f"{ROOT}/jobs/distill.py", str(spec_path)]
        done = self._run(command)
        assert done.returncode == 0, done.stdout + done.stderr

    def job_status(self, name):
        """Ray's word for the state of a job, such as RUNNING; empty while it cannot be asked."""
        return self.query("job_status", name)

    def job_log(self, name):
        """What a job's driver has printed."""
        return self._run(["ray", "job", "logs", f"--address={self.dashboard_url}", name]).stdout

    def files_with_the_password(self):
        """Files of this cluster, and of Ray's session, that have Redis's password in them."""
        files = [
            path
            for folder in (self._folder, self._ray_folder)
            for path in folder.rglob("*")
            if path.is_file()
        ]
        assert any(path.name.startswith("gcs_server") for path in files)
        return [str(path) for path in files if self._password.encode() in path.read_bytes()]

    @property
    def dashboard_url(self):
        return f"http://{self.head.address}:8265"

    def _run(self, command):
        return subprocess.run(
            self.head.command(*command),
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def close(self):
        if self._redis is not None:
            self._redis.kill()
            self._redis.wait()
        super().close()
        shutil.rmtree(self._ray_folder, ignore_errors=True)


def missing_programs():
    """Names of the programs that this machine lacks."""
    return [name for name in ("redis-server", "redis-cli") if shutil.which(name) is None]
