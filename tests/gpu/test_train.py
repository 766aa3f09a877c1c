"""The script that trains specs without Ray trains as workers do, and only what is left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.training_runs import final, run_alone

from service.compare.loading import parse_comparison
from service.run.result import read_result
from service.spec.loading import parse_spec

SCRIPT = Path(__file__).parent / "train.py"

pytestmark = pytest.mark.slow


def call(path, *options):
    """Run the script on at most two CPUs, and without a GPU.

    Two runs at a time then have one CPU each, like those that they are compared with.
    """
    environment = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:2])
    try:
        return subprocess.run(
            [sys.executable, str(SCRIPT), str(path), *options],
            capture_output=True, text=True, timeout=300, check=False, env=environment,
        )  # fmt: skip
    finally:
        os.sched_setaffinity(0, allowed)


def test_runs_of_a_comparison_equal_those_of_a_worker(make_compare_content, tmp_path):
    content = make_compare_content({"schedule": {"num_epochs": 1, "milestones": []}})
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(content))
    done = call(path, "--processes", "2")
    assert done.returncode == 0, done.stderr
    specs = list(parse_comparison(content).run_specs().values())
    assert [read_result(spec.run_path).progress.epoch for spec in specs] == [1, 1, 1, 1]
    for spec in specs[:2]:
        other = parse_spec({**spec.model_dump(mode="json"), "name": f"{spec.name}-alone"})
        run_alone(other)
        (weights, progress), (expected, expected_progress) = final(spec), final(other)
        assert progress == expected_progress
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    times = [(spec.run_path / "journal.jsonl").stat().st_mtime_ns for spec in specs]
    assert call(path).returncode == 0
    assert [(s.run_path / "journal.jsonl").stat().st_mtime_ns for s in specs] == times


def test_what_is_not_done_in_time_is_ended(make_content, tmp_path):
    content = make_content(schedule={"num_epochs": 100000, "milestones": []})
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(content))
    done = call(path, "--limit-s", "8")
    assert done.returncode == 1
    assert "no time left for 1 runs" in done.stdout


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seeds": [3]}, "seeds: has fewer than two seeds"),
        ({"tuned": {"trials": 2, "held_out": {"num_images": 64}}}, "tuned: cannot be done"),
        ({"base": 7}, "base"),
    ],
)
def test_bad_input_is_said_without_a_traceback(make_compare_content, tmp_path, change, text):
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(make_compare_content() | change))
    done = call(path)
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
