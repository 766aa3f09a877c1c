"""A Slurm cluster on this machine: munged, slurmctld, and a slurmd on each of two hosts.

The hosts are network namespaces. All files are in a folder; nothing of the system is changed.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from hosts import LOCK_PATH, ROOT, make_hosts, remove_hosts
from processes import end
from waiting import wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "ip")
ANSWER_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")

# What is shortened is what Slurm waits for on purpose: before a job that was requeued starts again
# (cred_expire), before processes that ignore SIGTERM are killed (KillWait).
CONFIGURATION = """
ClusterName=dtkd
SlurmctldHost={hostname}({head})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
MessageTimeout=60
ReturnToService=2
SlurmdParameters=config_overrides
{nodes}
PartitionName=spot Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


def missing_programs():
    """Names of the programs that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]


def search_path():
    """PATH with the folders of daemons, which users may lack."""
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])


class SlurmCluster:
    """Nodes n1 and n2 with two CPUs each, and the commands that users of Slurm have.

    Jobs inherit the environment of users' commands. Their workers find ``injector`` and its plan of
    faults through it.
    """

    def __init__(self, folder):
        # The hosts have the names and addresses of those of tests/cluster.
        self._lock = LOCK_PATH.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.folder, self._processes = folder, []
        # Of faults that workers inject, see injector.
        self.plan_folder = folder / "faults"
        self.plan_folder.mkdir(parents=True)
        # The batch script's interpreter is this one.
        self.environment = {
            **os.environ,
            "PATH": search_path(),
            "PYTHON": sys.executable,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "cluster"))),
            "SLURM_CONF": str(folder / "slurm.conf"),
            "RAY_TRAIN_CALLBACKS": "injector.FaultInjector",
            "DTKD_FAULTS": str(self.plan_folder),
        }
        self.environment.pop("MLFLOW_TRACKING_URI", None)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _start(self):
        self.hosts = make_hosts(2)
        self._write_configuration()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        names = ("key-file", "socket", "pid-file", "log-file", "seed-file")
        paths = [f"--{name}={self.folder}/munge.{name.removesuffix('-file')}" for name in names]
        # By force: folders of tests are closed to other users, which munged warns about.
        self._launch("munged", ["munged", "--foreground", "--force", *paths])
        wait_until((self.folder / "munge.socket").exists, "munged", ANSWER_LIMIT_S)
        self._launch("slurmctld", self.hosts[0].command("slurmctld", "-D"))
        for number, host in enumerate(self.hosts, 1):
            name = f"n{number}"
            (self.folder / f"spool-{name}").mkdir()
            self._launch(f"slurmd-{name}", host.command("slurmd", "-D", "-N", name))
        wait_until(lambda: self._states() == ["idle", "idle"], "idle nodes", ANSWER_LIMIT_S)

    def _write_configuration(self):
        nodes = [
            f"NodeName=n{number} NodeAddr={host.address} CPUs=2"
            for number, host in enumerate(self.hosts, 1)
        ]
        text = CONFIGURATION.format(
            hostname=socket.gethostname().partition(".")[0],
            head=self.hosts[0].address,
            folder=self.folder,
            nodes="\n".join(nodes),
        )
        Path(self.environment["SLURM_CONF"]).write_text(text)
        # None is used; the other plugin asks for mounts that these hosts do not have.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")

    def _launch(self, name, command):
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self._processes.append(process)

    def _states(self):
        return self.run("sinfo", "-h", "-N", "-p", "spot", "-o", "%T", check=False).stdout.split()

    def run(self, *command, check=True):
        """Run a command on the first host, in the project's folder."""
        done = subprocess.run(
            self.hosts[0].command(*command),
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    def submit(self, *arguments):
        """``sbatch`` with these arguments; returns the job's number."""
        return self.run("sbatch", "--parsable", *arguments).stdout.strip()

    def job(self, number):
        """What Slurm says of a job, by field, such as JobState, ExitCode and Restarts."""
        words = self.run("scontrol", "show", "job", number, "--oneliner").stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for_end(self, number, limit_s):
        """Wait until a job has ended for good; returns its exit status."""
        wait_until(lambda: self.job(number)["JobState"] in ENDED, f"end of job {number}", limit_s)
        return int(self.job(number)["ExitCode"].partition(":")[0])

    def close(self):
        """Cancel all jobs, stop the daemons and remove the hosts."""
        if len(self._processes) == 4:
            self.run(
                "scancel", "--full", "--signal=KILL", "--state=RUNNING", "--user=root", check=False
            )
            self.run("scancel", "--user=root", check=False)
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: self._states() == ["idle", "idle"], "end of jobs", STOP_LIMIT_S)
        for process in reversed(self._processes):
            end(process, STOP_LIMIT_S)
        remove_hosts()
        self._lock.close()
