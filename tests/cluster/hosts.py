"""Several hosts on one machine: network namespaces with their own addresses, connected by a bridge.

Each has its own Ray node. Hosts can be disconnected and slowed down, nodes killed and restarted.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
BRIDGE = "dtkdbr"
SUBNET = "10.199.7"
NARROW = ("tbf", "rate", "2mbit", "burst", "32kbit", "latency", "400ms")
STOP_LIMIT_S = 20.0
OWN_PROCESSES = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
# Held by whoever makes hosts: their names and addresses are the same on a machine.
LOCK_PATH = Path(tempfile.gettempdir()) / "dtkd-hosts.lock"


def ip(*arguments, check=True):
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


def can_make_hosts():
    """Whether namespaces can be created here: as root, with iproute2."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "dtkdprobe"], capture_output=True, check=False)
    ip("netns", "delete", "dtkdprobe", check=False)
    return made.returncode == 0


class Host:
    """One namespace, connected to the bridge by a virtual cable.

    ``sees_own_processes``: whether a command sees only the processes that it starts. Otherwise all
    hosts see all: a driver joins the head's Ray node, wherever it runs, and a head does not start
    where a node of its cluster still runs.
    """

    def __init__(self, number):
        self.sees_own_processes = False
        self.name, self.address = f"dtkd{number}", f"{SUBNET}.{number}"
        ip("netns", "add", self.name)
        pair = ["type", "veth", "peer", "name", "eth0", "netns", self.name]
        ip("link", "add", f"{self.name}v", *pair)
        ip("link", "set", f"{self.name}v", "master", BRIDGE, "up")
        ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("-n", self.name, "link", "set", "lo", "up")

    def command(self, *arguments):
        """The command line that runs a command on this host."""
        isolation = OWN_PROCESSES if self.sees_own_processes else ()
        return ["ip", "netns", "exec", self.name, *isolation, *map(str, arguments)]

    def disconnect(self):
        ip("link", "set", f"{self.name}v", "down")

    def reconnect(self):
        ip("link", "set", f"{self.name}v", "up")

    def slow_down(self):
        """Delay what this host sends by 20 ms and drop 2 % of it.

        Kernels without netem limit the link to 2 Mbit/s instead, with a queue of 400 ms that
        overflows, so that packets are late and lost too.
        """
        for words in (("netem", "delay", "20ms", "loss", "2%"), NARROW):
            done = self._qdisc("replace", *words)
            if done.returncode == 0:
                return
        raise OSError(f"tc can neither delay packets nor limit a link here: {done.stderr}")

    def restore_speed(self):
        assert self._qdisc("del").returncode == 0

    def _qdisc(self, action, *words):
        command = ["tc", "-n", self.name, "qdisc", action, "dev", "eth0", "root", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)


class Node:
    """A Ray node on a host: the processes that ``ray start`` created, by their own ids."""

    def __init__(self, host, head_address, environment, log_path, num_cpus, options=()):
        self.host = host
        command = ["ray", "start", "--block", f"--num-cpus={num_cpus}"]
        command += [f"--node-ip-address={host.address}", "--object-store-memory=100000000"]
        if host.address == head_address:
            command += ["--head", "--port=6379", f"--dashboard-host={head_address}"]
        else:
            command += [f"--address={head_address}:6379"]
        command += options
        with log_path.open("a") as log:
            self._process = subprocess.Popen(
                host.command(*command),
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def processes(self):
        """All processes of the node."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def is_running(self):
        return self._process.poll() is None

    def kill(self):
        """Kill all processes at once, as a loss of power does."""
        processes = self.processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        for process in {*processes, *self.processes()}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=STOP_LIMIT_S)
        self._process.wait(STOP_LIMIT_S)

    def stop(self):
        processes = self.processes()
        self._process.terminate()
        _, remaining = psutil.wait_procs(processes, timeout=STOP_LIMIT_S)
        for process in remaining:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(remaining, timeout=STOP_LIMIT_S)
        self._process.wait(STOP_LIMIT_S)


def make_hosts(count):
    """Hosts with the numbers 1, 2 ..., in place of those of an earlier cluster."""
    remove_hosts()
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("link", "set", BRIDGE, "up")
    return [Host(number) for number in range(1, count + 1)]


def remove_hosts():
    """Remove the namespaces and the bridge of this or an earlier cluster."""
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False)
    for line in names.stdout.splitlines():
        if line.startswith("dtkd"):
            name = line.split()[0]
            # Processes that still run in a namespace would keep its cable.
            ip("link", "delete", f"{name}v", check=False)
            ip("netns", "delete", name, check=False)
    ip("link", "delete", BRIDGE, check=False)


def stop_process(process, number=signal.SIGKILL):
    """Send a signal to a driver; ``ip netns exec`` has replaced itself by it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
