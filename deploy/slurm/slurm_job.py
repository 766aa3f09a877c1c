"""The batch step of distill.sbatch: checks a spec, starts Ray on the nodes, runs the spec's job.

Exit status: that of the job, 0 done, 1 failed, 2 bad input, 3 stopped.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from allocation import check_environment, read_allocation, room_problem
from processes import end
from ray_nodes import NodesError, RayNodes, head_address

from service.compare.kind import Script, script_of
from service.compare.loading import load_comparison
from service.run.scripts import ScriptParser, run_script
from service.spec.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_STOPPED,
    BadInputError,
    Problem,
)
from service.spec.loading import load_spec, read_json
from service.spec.secrets import path_argument
from service.spec.sections import Resources
from service.sweep.loading import load_sweep

ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.5
# A job whose cluster is gone may wait for it.
LOST_TIMEOUT_S = 30.0


class Work(NamedTuple):
    """What a spec asks for: the script that runs it, its folder, and the resources of one run."""

    script: Script
    path: Path
    resources: Resources


def read_work(spec_path: Path) -> Work:
    """Read and check the spec of a job, a sweep or a comparison.

    Raises:
        BadInputError: with every problem found.
    """
    script = script_of(read_json(spec_path))
    if script == "distill":
        job = load_spec(spec_path)
        return Work(script, job.run_path, job.resources)
    if script == "compare":
        compare = load_comparison(spec_path).compare
        return Work(script, compare.compare_path, compare.resources or compare.base.resources)
    sweep = load_sweep(spec_path).sweep
    return Work(script, sweep.as_job().run_path, sweep.resources or sweep.base.resources)


class Stops:
    """Requests to stop: SIGTERM, or SIGUSR1, which Slurm sends ahead of the time limit."""

    def __init__(self) -> None:
        self.is_requested = False
        self.is_at_limit = False
        self._job: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._handle)

    def pass_on_to(self, job: subprocess.Popen[bytes]) -> None:
        """Ask this process to stop, too, now if a request has arrived."""
        self._job = job
        if self.is_requested:
            job.terminate()

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Python's interface
        self.is_requested = True
        if number == signal.SIGUSR1:
            self.is_at_limit = True
        if self._job is not None:
            self._job.terminate()


def main(arguments: list[str]) -> int:
    """Run the job of a spec on this allocation; returns the exit status."""
    stops = Stops()
    options = _parser().parse_args(arguments)
    try:
        work = read_work(options.spec)
        others = script_options(options, work.script)
        check_environment(os.environ)
        nodes = read_allocation(os.environ)
        if problem := room_problem(nodes, work.resources):
            raise BadInputError(str(options.spec), [problem])
        host = head_address(os.environ["SLURMD_NODENAME"], len(nodes))
    except BadInputError as error:
        print(*(f"deploy: {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
        return EXIT_BAD_INPUT
    job_id, num_restarts = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")
    log(f"job {job_id}: {work.script}.py {options.spec} on {os.environ['SLURM_JOB_NODELIST']}")
    if num_restarts != "0":
        log(f"restart {num_restarts} of job {job_id}: resuming {work.path} from what it has saved")
    command = [sys.executable, str(ROOT / "jobs" / f"{work.script}.py"), str(options.spec), *others]
    exit_status = run_on_nodes(command, host, len(nodes), stops)
    if options.until_done and stops.is_at_limit and exit_status in (EXIT_STOPPED, -signal.SIGTERM):
        requeue(job_id)
    return exit_status if exit_status >= 0 else 128 - exit_status


def script_options(options: argparse.Namespace, script: Script) -> list[str]:
    """What the script gets besides its spec.

    Raises:
        BadInputError: an option is that of another script.
    """
    for name, value, owner, kind in (
        ("--confirm", options.confirm, "sweep", "a sweep"),
        ("--profile", options.profile, "distill", "a job"),
    ):
        if value and script != owner:
            raise BadInputError("arguments", [Problem(name, f"goes with {kind}", "remove it")])
    confirm = ["--confirm", str(options.confirm)] if options.confirm else []
    return [*confirm, *(["--profile"] if options.profile else [])]


def run_on_nodes(command: list[str], host: str, num_nodes: int, stops: Stops) -> int:
    """Run a command on a Ray cluster of all nodes; returns its exit status.

    ``host``: address of the first node, this one.
    """
    ray = RayNodes(host, num_nodes)
    try:
        if not ray.wait_until_started(lambda: stops.is_requested):
            if not stops.is_at_limit:
                return EXIT_STOPPED
            # Put back into the queue, it would come as far again, for ever.
            raise NodesError("the time limit came before Ray had started: give a longer --time")
        job = subprocess.Popen(command, env=ray.environment)
        stops.pass_on_to(job)
        while job.poll() is None and ray.are_running:
            time.sleep(POLL_S)
        is_lost = job.poll() is None
        end(job, LOST_TIMEOUT_S)
        # A process whose node has ended may be ended by Ray at once, without a word.
        is_lost = is_lost or (job.returncode == EXIT_FAILED and ray.has_ended())
        if is_lost and not stops.is_requested:
            raise NodesError(f"Ray ended on a node:\n{ray.output}")
        if stops.is_at_limit:
            log("stopped ahead of the time limit, or of a preemption")
        return job.returncode
    except NodesError as error:
        log(str(error))
        return EXIT_FAILED
    finally:
        ray.stop()


def requeue(job_id: str) -> None:
    """Put this Slurm job back into the queue; Slurm then ends it here."""
    log(f"job {job_id} goes back into the queue, and resumes when it starts again")
    done = subprocess.run(
        ["scontrol", "requeue", job_id], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        log(f"it does not: {done.stderr.strip()}; submit the same spec to resume")


def log(text: str) -> None:
    """Print a line to the Slurm job's log."""
    print(f"deploy: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = ScriptParser(__doc__)
    parser.add_argument("spec", type=path_argument, help="the JSON spec, as seen from here")
    parser.add_argument(
        "--until-done",
        action="store_true",
        help="at the time limit, put the Slurm job back into the queue, to go on",
    )
    parser.add_argument(
        "--confirm", type=_num_seeds, default=0, metavar="N", help="of a sweep: as in jobs/sweep.py"
    )
    parser.add_argument("--profile", action="store_true", help="of a job: as in jobs/distill.py")
    return parser


def _num_seeds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1")
    return int(text)


if __name__ == "__main__":
    run_script(main)
