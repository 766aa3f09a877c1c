"""Several hosts on one machine: network namespaces with addresses of their own on one bridge, each
with its own Ray node, that can be cut off, slowed down, killed and started again.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
BRIDGE = "dtkdbr"
SUBNET = "10.199.7"
NARROW = ("tbf", "rate", "2mbit", "burst", "32kbit", "latency", "400ms")
NODE_LIMIT_S = 90.0
STOP_LIMIT_S = 20.0


def ip(*arguments, check=True):
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


def can_make_hosts():
    """Whether namespaces can be made here: as root, with iproute2."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "dtkdprobe"], capture_output=True, check=False)
    ip("netns", "delete", "dtkdprobe", check=False)
    return made.returncode == 0


class Host:
    """One namespace; ``cut`` and ``mend`` pull and plug its cable."""

    def __init__(self, number):
        self.name, self.address = f"dtkd{number}", f"{SUBNET}.{number}"
        ip("netns", "add", self.name)
        pair = ["type", "veth", "peer", "name", "eth0", "netns", self.name]
        ip("link", "add", f"{self.name}v", *pair)
        ip("link", "set", f"{self.name}v", "master", BRIDGE, "up")
        ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("-n", self.name, "link", "set", "lo", "up")

    def command(self, *arguments):
        return ["ip", "netns", "exec", self.name, *map(str, arguments)]

    def cut(self):
        ip("link", "set", f"{self.name}v", "down")

    def mend(self):
        ip("link", "set", f"{self.name}v", "up")

    def slow_down(self):
        """Delay what this host sends by 20 ms and lose 2 % of it.

        Kernels without netem narrow the line to 2 Mbit/s instead, with a queue of 400 ms that
        overflows: late and lost packets all the same.
        """
        for words in (("netem", "delay", "20ms", "loss", "2%"), NARROW):
            done = self._qdisc("replace", *words)
            if done.returncode == 0:
                return
        raise OSError(f"tc can neither delay nor narrow a line here: {done.stderr}")

    def speed_up(self):
        assert self._qdisc("del").returncode == 0

    def _qdisc(self, action, *words):
        command = ["tc", "-n", self.name, "qdisc", action, "dev", "eth0", "root", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)


class Node:
    """A Ray node on a host: the processes that ``ray start`` left, by their own ids."""

    def __init__(self, host, head_address, environment, log_path, num_cpus):
        self.host = host
        command = ["ray", "start", "--block", f"--num-cpus={num_cpus}"]
        command += [f"--node-ip-address={host.address}", "--object-store-memory=100000000"]
        if host.address == head_address:
            command += ["--head", "--port=6379", f"--dashboard-host={head_address}"]
        else:
            command += [f"--address={head_address}:6379"]
        with log_path.open("a") as log:
            self._process = subprocess.Popen(
                host.command(*command),
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def family(self):
        """All processes of the node."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def is_running(self):
        return self._process.poll() is None

    def kill(self):
        """As if the machine had lost its power."""
        family = self.family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        for process in {*family, *self.family()}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=STOP_LIMIT_S)
        self._process.wait(STOP_LIMIT_S)

    def stop(self):
        family = self.family()
        self._process.terminate()
        _, left = psutil.wait_procs(family, timeout=STOP_LIMIT_S)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=STOP_LIMIT_S)
        self._process.wait(STOP_LIMIT_S)


class Cluster:
    """Ray over hosts, the first of which is the head and runs the jobs' drivers.

    Workers find ``injector`` and its plan of faults through their environment (see there).
    """

    def __init__(self, folder, num_hosts=2, num_cpus=1):
        self._folder, self._num_cpus = folder, num_cpus
        folder.mkdir(parents=True, exist_ok=True)
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        self.plan_folder = folder / "faults"
        self.plan_folder.mkdir(exist_ok=True)
        path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TRAIN_CALLBACKS": "injector.FaultInjector",
            "DTKD_FAULTS": str(self.plan_folder),
        }
        self.environment.pop("MLFLOW_TRACKING_URI", None)
        self.hosts, self.nodes = [], []
        remove_hosts()
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("link", "set", BRIDGE, "up")
        self.hosts = [Host(number) for number in range(1, num_hosts + 1)]
        self.nodes = [None] * num_hosts
        for number in range(num_hosts):
            self.start(number)

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
        """Start the Ray node of a host and wait until the cluster has it."""
        expected = self.num_alive() + 1 if number else 1
        log_path = self._folder / f"node{number}.log"
        self.nodes[number] = Node(
            self.hosts[number], self.head.address, self.environment, log_path, self._num_cpus
        )
        deadline_s = time.monotonic() + NODE_LIMIT_S
        while self.num_alive() < expected:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{expected} nodes did not come up, see {log_path}")
            time.sleep(0.5)

    def ask(self, code):
        """Run code on the head with ``ray`` connected; what it prints, or None."""
        code = f"import ray; ray.init({self.address!r}, logging_level='ERROR'); {code}"
        done = subprocess.run(
            self.head.command(sys.executable, "-c", code),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.stdout.strip() if done.returncode == 0 else None

    def num_alive(self):
        answer = self.ask("print(sum(node['Alive'] for node in ray.nodes()))")
        return int(answer) if answer else 0

    def drain(self, number, seconds):
        """What a cloud's notice of preemption comes to."""
        code = (
            "from ray._raylet import GcsClient; from ray.core.generated import autoscaler_pb2 as a;"
            f"node = next(n for n in ray.nodes() if n['NodeManagerAddress'] == "
            f"{self.hosts[number].address!r} and n['Alive']);"
            "import time;"
            f"print(GcsClient(address={self.address!r}).drain_node(node['NodeID'],"
            "a.DrainNodeReason.Value('DRAIN_NODE_REASON_PREEMPTION'), 'test',"
            f"int(1000 * (time.time() + {seconds}))))"
        )
        answer = self.ask(code)
        assert answer is not None
        assert answer.startswith("(True"), answer

    def submit(self, spec_path, log_path, *, as_ray_job=False):
        """Start a job's driver on the head; its process."""
        command = [sys.executable, "jobs/distill.py", spec_path]
        environment = {**self.environment, "RAY_ADDRESS": self.address}
        if as_ray_job:
            command = ["ray", "job", "submit", "--address", f"http://{self.head.address}:8265"]
            command += ["--", "python", "jobs/distill.py", spec_path]
        with log_path.open("a") as log:
            return subprocess.Popen(
                self.head.command(*command),
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop_jobs(self):
        """``ray job stop`` for every job that runs."""
        code = (
            "from ray.job_submission import JobSubmissionClient as Client;"
            f"client = Client('http://{self.head.address}:8265');"
            "print([client.stop_job(j.submission_id) for j in client.list_jobs()"
            " if j.submission_id and j.status == 'RUNNING'])"
        )
        assert "True" in (self.ask(code) or "")

    def leftovers(self):
        """What jobs that have ended still hold of the cluster, once it has had time to clean up."""
        code = (
            "from ray.util import placement_group_table as table;"
            "left = [g for g in table().values() if g['state'] != 'REMOVED'];"
            "free = ray.available_resources().get('CPU', 0) == ray.cluster_resources()['CPU'];"
            "print(len(left), free)"
        )
        deadline_s = time.monotonic() + 30
        while True:
            answer, workers = self.ask(code), self.worker_processes()
            if answer == "0 True" and not workers:
                return ""
            if time.monotonic() > deadline_s:
                return f"placement groups, all CPUs free: {answer}; workers: {workers}"
            time.sleep(1)

    def worker_processes(self):
        """Names of training workers that run on any node."""
        names = [p.name() for node in self.nodes if node for p in node.family() if p.is_running()]
        return [name for name in names if "RayTrainWorker" in name or "TrainController" in name]

    def close(self):
        for node in reversed([node for node in self.nodes if node is not None]):
            with contextlib.suppress(ProcessLookupError):
                node.stop()
        remove_hosts()


def remove_hosts():
    """Namespaces and bridge of this or an earlier cluster."""
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False)
    for line in names.stdout.splitlines():
        if line.startswith("dtkd"):
            ip("netns", "delete", line.split()[0], check=False)
    ip("link", "delete", BRIDGE, check=False)


def stop_process(process, number=signal.SIGKILL):
    """Send a signal to a driver and its children, which ``ip netns exec`` has become."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
