"""What a Slurm job refuses before anything starts, and how it starts Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "deploy" / "slurm"))

import slurm_job
from allocation import NodeShare, read_allocation, room_problem
from ray.scripts.scripts import start
from slurm_job import read_work
from start_node import HEAD_VARIABLE, port_names, ray_start_command

from service.spec.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_STOPPED, BadInputError
from service.spec.sections import Resources

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("cpus", "gpus", "nodes"),
    [
        ("8", None, [(8, 0)]),
        ("2(x3)", "", [(2, 0)] * 3),
        ("4(x2),16,1(x1)", "2", [(4, 2), (4, 2), (16, 2), (1, 2)]),
    ],
)
def test_allocation_is_read_from_slurms_short_form(cpus, gpus, nodes):
    environment = {"SLURM_JOB_CPUS_PER_NODE": cpus}
    if gpus is not None:
        environment["SLURM_GPUS_ON_NODE"] = gpus
    assert read_allocation(environment) == tuple(nodes)


@pytest.mark.parametrize(
    ("nodes", "resources", "remedy"),
    [
        # A worker is on one node: two halves of one do not count.
        ([(3, 0), (3, 0)], {"num_workers": 3, "cpus_per_worker": 2}, "--nodes=2 --cpus-per-task=4"),
        ([(8, 0)], {"num_workers": 2, "cpus_per_worker": 8}, "--nodes=1 --cpus-per-task=16"),
        (
            [(64, 4)],
            {"num_workers": 8, "cpus_per_worker": 8, "gpu": True},
            "--nodes=1 --cpus-per-task=64 --gpus-per-node=8",
        ),
    ],
)
def test_allocation_that_is_too_small_is_refused(nodes, resources, remedy):
    problem = room_problem([NodeShare(*node) for node in nodes], Resources(**resources))
    assert problem is not None
    assert problem.where == "resources.num_workers"
    assert f"sbatch {remedy}, or request less in resources" in problem.remedy


@pytest.mark.parametrize(
    ("nodes", "resources"),
    [
        ([(4, 0), (2, 0)], {"num_workers": 3, "cpus_per_worker": 2}),
        # Of a range, the minimum must fit.
        ([(2, 0)], {"num_workers": [1, 8], "cpus_per_worker": 2}),
        ([(16, 2), (16, 2)], {"num_workers": 4, "cpus_per_worker": 8, "gpu": True}),
    ],
)
def test_allocation_that_suffices_is_taken(nodes, resources):
    assert room_problem([NodeShare(*node) for node in nodes], Resources(**resources)) is None


def test_script_and_resources_are_those_of_the_kind_of_spec(
    tmp_path, make_content, make_sweep_content, make_compare_content
):
    own = {"num_workers": 1, "cpus_per_worker": 3}
    found = {}
    for name, content in [
        ("distill", make_content(resources=own)),
        ("sweep", make_sweep_content(resources=own)),
        ("compare", make_compare_content(resources=own)),
        ("compare of its base", make_compare_content()),
    ]:
        path = tmp_path / "spec.json"
        path.write_text(json.dumps(content))
        found[name] = read_work(path)
    assert [work.script for work in found.values()] == [name.split()[0] for name in found]
    expected = [(1, 3), (1, 3), (1, 3), (1, 1)]
    sizes = [(w.resources.num_workers, w.resources.cpus_per_worker) for w in found.values()]
    assert sizes == expected
    assert [work.path.name for work in found.values()] == ["run", "sweep", "cmp", "cmp"]


def run_script(spec_path, cpus, *options, cwd=ROOT, **variables):
    """distill.sbatch as Slurm runs it on one node; nothing that it starts is there."""
    environment = {
        "SLURM_JOB_NODELIST": "n1",
        "PATH": os.environ["PATH"],
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_CPUS_PER_NODE": cpus,
        "SLURMD_NODENAME": "n1",
        **variables,
    }
    return subprocess.run(
        ["/bin/bash", ROOT / "deploy/slurm/distill.sbatch", spec_path, *options],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_refusals_are_one_line_each_before_anything_starts(write_spec, tmp_path):
    spec_path = write_spec()
    other = tmp_path / "other.json"
    other.write_text("{}")
    for done, text in [
        (run_script(spec_path, "1"), "deploy: resources.num_workers: 2 workers with 1 CPUs each"),
        (run_script(spec_path, "2", SLURM_JOB_ID=""), "deploy: distill.sbatch: runs under Slurm; "),
        (run_script(spec_path, "2", cwd=tmp_path), f"deploy: {tmp_path}: is not the project's"),
        (
            run_script(spec_path, "2", PYTHON="none/python"),
            "deploy: PYTHON: there is no none/python",
        ),
        (run_script(tmp_path / "absent.json", "2"), "deploy: file: "),
    ]:
        assert done.returncode == EXIT_BAD_INPUT
        assert done.stderr.startswith(text)
        assert done.stderr.count("\n") == 1
    # Each problem of a spec has a line of its own.
    lines = run_script(other, "2").stderr.splitlines()
    assert {line.split(": ")[1] for line in lines} == {"name", "dataset", "student", "checkpoints"}


SCONTROL = "#!/bin/sh\necho 'NodeName=n1 NodeAddr={} NodeHostName=n1'\n"


@pytest.mark.parametrize(
    ("scontrol", "expected"),
    [
        (None, "scontrol: does not run: "),
        ("no program\n", "scontrol: does not run: "),
        ("#!/bin/sh\necho 'Not found' >&2; exit 1\n", "scontrol: does not show node n1: Not found"),
        ("#!/bin/sh\necho NodeName=n1\n", "NodeAddr: is not in what scontrol shows of node n1"),
        (SCONTROL.format("n1.invalid"), "NodeAddr: is n1.invalid, which is no address of node"),
        # For documentation: no machine has it.
        (SCONTROL.format("192.0.2.1"), "NodeAddr: is 192.0.2.1, which is no address of node n1: "),
    ],
)
def test_address_that_slurm_does_not_say_is_one_line(write_spec, tmp_path, scontrol, expected):
    if scontrol is not None:
        program = tmp_path / "scontrol"
        program.write_text(scontrol)
        program.chmod(0o755)
    done = run_script(write_spec(), "2", PATH=str(tmp_path))
    assert done.returncode == EXIT_BAD_INPUT
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"deploy: {expected}")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SLURM_JOB_CPUS_PER_NODE", "", "is not set: this is not the batch step of a Slurm job; "),
        ("SLURM_JOB_NODELIST", "", "is not set"),
        ("SLURMD_NODENAME", "", "is not set"),
        ("SLURM_JOB_CPUS_PER_NODE", "2(x", "is '2(x', which is no list of CPUs; submit"),
        ("SLURM_GPUS_ON_NODE", "gpu:2", "is 'gpu:2', which is no number of GPUs; submit"),
    ],
)
def test_environment_of_no_slurm_job_is_one_line(write_spec, variable, value, expected):
    done = run_script(write_spec(), "2", **{variable: value})
    assert done.returncode == EXIT_BAD_INPUT
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"deploy: {variable}: {expected}")
    assert "sbatch" in line


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--nonsense"], "error: unrecognized arguments: --nonsense"),
        (["--confirm", "0"], "error: argument --confirm: 0 is no number from 1"),
        (["--confirm", "3"], "deploy: --confirm: goes with a sweep; remove it"),
    ],
)
def test_options_are_checked_before_anything_starts(write_spec, options, expected):
    done = run_script(write_spec(), "2", *options)
    assert done.returncode == EXIT_BAD_INPUT
    (line,) = done.stderr.splitlines()
    assert expected in line


def test_options_reach_the_script_that_they_are_for():
    parse = slurm_job._parser().parse_args
    assert slurm_job.script_options(parse(["s.json", "--confirm", "3"]), "sweep") == [
        "--confirm",
        "3",
    ]
    assert slurm_job.script_options(parse(["s.json", "--profile"]), "distill") == ["--profile"]
    assert slurm_job.script_options(parse(["s.json", "--until-done"]), "compare") == []
    with pytest.raises(BadInputError, match="--profile: goes with a job"):
        slurm_job.script_options(parse(["s.json", "--profile"]), "sweep")


@pytest.mark.parametrize("number", ["0", "1"])
def test_ray_start_gets_options_that_it_knows_and_ports_of_its_own(number, tmp_path):
    environment = {
        "SLURM_NODEID": number,
        "SLURM_CPUS_ON_NODE": "6",
        "SLURM_GPUS_ON_NODE": "2",
        HEAD_VARIABLE: "10.0.0.1:7001",
        "RAY_AUTH_TOKEN": "secret",
    }
    ports = range(9001, 9001 + len(port_names(environment)))
    command = ray_start_command(environment, "10.0.0.9", tmp_path, ports)
    given = dict(word.partition("=")[::2] for word in command[2:])
    assert given.keys() <= {option for parameter in start.params for option in parameter.opts}
    assert (given["--num-cpus"], given["--num-gpus"]) == ("6", "2")
    assert ("--head" in given) == (number == "0")
    assert given.get("--address" if number == "1" else "--port") in ("10.0.0.1:7001", "7001")
    own = {name for name, value in given.items() if value.isdecimal() and 9001 <= int(value) < 9100}
    # The others are chosen by Ray itself.
    fixed = {"--dashboard-agent-listen-port", "--ray-client-server-port", "--dashboard-port"}
    assert own == (fixed if number == "0" else {"--dashboard-agent-listen-port"})
    assert "secret" not in " ".join(command)


class SlowNodes:
    """Nodes on which Ray has not started when somebody asks for a stop."""

    def __init__(self, host, num_nodes):
        pass

    def wait_until_started(self, is_stopped):
        assert is_stopped()
        return False

    def stop(self):
        pass


@pytest.mark.parametrize(("is_at_limit", "expected"), [(True, EXIT_FAILED), (False, EXIT_STOPPED)])
def test_time_limit_before_a_start_is_a_failure_and_not_requeued(
    monkeypatch, is_at_limit, expected
):
    monkeypatch.setattr(slurm_job, "RayNodes", SlowNodes)
    stops = mock.Mock(is_requested=True, is_at_limit=is_at_limit)
    assert slurm_job.run_on_nodes(["none"], "127.0.0.1", 1, stops) == expected
