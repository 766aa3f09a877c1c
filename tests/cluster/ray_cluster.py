"""Ray over several hosts of this machine: starting, querying, draining, filling the storage."""

import contextlib
import fcntl
import json
import os
import secrets
import select
import subprocess
import sys
import time
from pathlib import Path

import psutil
from hosts import LOCK_PATH, ROOT, Node, make_hosts, remove_hosts

SHARED_MEMORY = Path("/dev/shm")
JOB_ACTORS = (
    "RayTrainWorker",
    "TrainController",
    "SynchronizationActor",
    "PreemptionWatcher",
    "PlacementGroupCleaner",
)
NODE_LIMIT_S = 90.0
ANSWER_LIMIT_S = 60.0
CLEANUP_LIMIT_S = 30.0
QUERY_SERVER = Path(__file__).parent / "query_server.py"


class Cluster:
    """Ray over hosts, the first of which is the head and runs the jobs' drivers.

    Workers find ``injector`` and its plan of faults through their environment (see there).
    """

    def __init__(self, folder, num_hosts=2, num_cpus=1):
        self._lock = LOCK_PATH.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._folder, self._num_cpus = folder, num_cpus
        folder.mkdir(parents=True, exist_ok=True)
        self.plan_folder = folder / "faults"
        self.plan_folder.mkdir(exist_ok=True)
        # Ray's own sockets need short paths; temporary files of jobs are found here.
        self._temporary = folder / "temporary"
        self._temporary.mkdir(exist_ok=True)
        self.environment = self._make_environment()
        # Mounted before the nodes start, which see no later mounts of this namespace.
        self.storage = folder / "storage"
        self.storage.mkdir(exist_ok=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(self.storage)], check=True
        )
        self.hosts, self.nodes = [], []
        self._drivers, self._query_server = [], None
        self.hosts = make_hosts(num_hosts)
        self.nodes = [None] * num_hosts
        try:
            self._start_all()
        except BaseException:
            self.close()
            raise

    def _make_environment(self):
        token = self._folder / "token"
        token.write_text(secrets.token_hex(32))
        path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray's default of 3 seconds is too short on a machine as busy as this one.
            "RAY_JOB_STOP_WAIT_TIME_S": "30",
            "RAY_TRAIN_CALLBACKS": "injector.FaultInjector",
            "RAY_TMPDIR": "/tmp",
            "TMPDIR": str(self._temporary),
            "DTKD_FAULTS": str(self.plan_folder),
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        return environment

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def head(self):
        return self.hosts[0]

    @property
    def address(self):
        return f"{self.head.address}:6379"

    def start(self, number):
        """Start the Ray node of a host and wait until it runs."""
        self._wait_for_node(*self._launch(number))

    def _start_all(self):
        # Nodes wait for the head, and load their libraries meanwhile.
        for launched in [self._launch(number) for number in range(len(self.hosts))]:
            self._wait_for_node(*launched)
        # Files of the nodes themselves, running or killed.
        self._known_files = {*SHARED_MEMORY.iterdir(), *self._temporary.iterdir()}

    def _launch(self, number):
        """The node's log, and the number of starts in it so far."""
        log_path = self._folder / f"node{number}.log"
        num_before = num_starts(log_path)
        self.nodes[number] = Node(
            self.hosts[number],
            self.head.address,
            self.environment,
            log_path,
            self._num_cpus,
            self._node_options(number),
        )
        return log_path, num_before

    def _node_options(self, number):
        """More options of a host's ``ray start``."""
        return []

    def _wait_for_node(self, log_path, num_before):
        deadline_s = time.monotonic() + NODE_LIMIT_S
        while num_starts(log_path) == num_before:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the node did not start, see {log_path}")
            time.sleep(0.2)

    def restart(self):
        """Kill all nodes at once, and start a new cluster on the same hosts."""
        self._stop_query_server()
        for node in self.nodes:
            node.kill()
        self._start_all()

    def query(self, name, *arguments):
        """The answer to a query (see ``query_server``)."""
        if self._query_server is None:
            with (self._folder / "query_server.log").open("a") as log:
                self._query_server = subprocess.Popen(
                    self.head.command(sys.executable, QUERY_SERVER, self.head.address),
                    env=self.environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,
                )
        print(json.dumps([name, *arguments]), file=self._query_server.stdin, flush=True)
        ready, _, _ = select.select([self._query_server.stdout], [], [], ANSWER_LIMIT_S)
        line = self._query_server.stdout.readline() if ready else ""
        if not line:
            raise RuntimeError(f"no answer to {name}, see {self._folder / 'query_server.log'}")
        return json.loads(line)

    def _stop_query_server(self):
        if self._query_server is not None:
            self._query_server.kill()
            self._query_server.communicate()
            self._query_server = None

    def num_alive(self):
        """Number of nodes in the cluster."""
        return self.query("num_alive")

    def drain(self, number, seconds):
        """Drain a node, with a deadline in seconds."""
        assert self.query("drain", self.hosts[number].address, seconds)

    def submit(self, spec_path, log_path, *, as_ray_job=False):
        """Start a job's driver on the head; returns its process."""
        command = [sys.executable, "jobs/distill.py", spec_path]
        environment = {**self.environment, "RAY_ADDRESS": self.address}
        if as_ray_job:
            command = ["ray", "job", "submit", "--address", f"http://{self.head.address}:8265"]
            command += ["--", "python", "jobs/distill.py", spec_path]
        with log_path.open("a") as log:
            driver = subprocess.Popen(
                self.head.command(*command),
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._drivers.append(driver)
        return driver

    def stop_jobs(self):
        """Run ``ray job stop`` for every running job."""
        assert self.query("stop_jobs") > 0

    def fill_storage(self):
        """Fill ``storage`` completely; returns the file to remove to free it again."""
        filler = self.storage / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        return filler

    def leftovers(self):
        """What ended jobs still hold of the cluster, as text, after a wait for cleanup."""
        deadline_s = time.monotonic() + CLEANUP_LIMIT_S
        while True:
            held = self.query("held_resources")
            left = [*self._job_processes(), *self._new_files()]
            if held == [0, 0] and not left:
                return ""
            if time.monotonic() > deadline_s:
                return f"placement groups, CPUs: {held}; {left}"
            time.sleep(0.2)

    def _job_processes(self):
        """Command lines of running processes that Ray started for a training job."""
        found = []
        for process in [process for node in self.nodes if node for process in node.processes()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(" ".join(process.cmdline()))
        return [line for line in found if any(name in line for name in JOB_ACTORS)]

    def _new_files(self):
        """Shared memory and temporary files that did not exist before."""
        found = {*SHARED_MEMORY.iterdir(), *self._temporary.iterdir()} - self._known_files
        # The cache of torch.compile, which all jobs of a user share.
        return sorted(str(path) for path in found if not path.name.startswith("torchinductor"))

    def close(self):
        """Kill everything and remove the hosts."""
        self._stop_query_server()
        for driver in self._drivers:
            driver.kill()
            driver.wait()
        for node in reversed([node for node in self.nodes if node is not None]):
            node.kill()
        subprocess.run(["umount", "-l", str(self.storage)], check=True)
        remove_hosts()
        self._lock.close()


def num_starts(log_path):
    """Number of completed ``ray start`` in a log."""
    return log_path.read_text().count("Ray runtime started") if log_path.exists() else 0
