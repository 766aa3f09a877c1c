"""What a plan counts, and where the hours come from."""

import json

import pytest
import torch
from support.confirm_runs import write_result

from service.compare import plan
from service.compare.jobs import run_specs
from service.compare.loading import parse_comparison
from service.compare.timing import ImageTime, num_that_fit, time_images

NINE = {"schedule": {"num_epochs": 9, "milestones": []}}


@pytest.fixture
def make_plan(make_compare_content, monkeypatch):
    """A function that makes the lines of a plan; an image takes 2 s, and 0.5 s in val."""
    monkeypatch.setattr(plan, "time_images", lambda _: ImageTime(2.0, 0.5))

    def make(base=None, **fields):
        fields = {"concurrency": 2, **fields}
        loaded = parse_comparison(make_compare_content({**NINE, **(base or {})}, **fields))
        return loaded, plan.format_plan(loaded).splitlines()

    return make


def test_runs_steps_and_hours_of_a_new_comparison(make_plan):
    _, lines = make_plan()
    assert lines[1] == "2 rows x 2 seeds = 4 runs, of which 0 have finished"
    # 256 images are 4 steps of 64.
    assert "left to train: 36 epochs, 144 steps" in lines
    hours = 36 * (256 * 2.0 + 101 * 0.5) / 3600
    text = f"time: about {hours / 2:.2g} hours on a machine like this one, with 2 at a time; "
    assert f"{text}{hours:.2g} hours of all runs together" in lines


def test_finished_runs_are_left_out_and_say_how_long_the_others_take(make_plan):
    loaded, _ = make_plan()
    finished = next(iter(run_specs(loaded.compare).values()))
    write_result(finished, 0.5)
    result = json.loads((finished.run_path / "result.json").read_text())
    path = finished.run_path / "result.json"
    path.write_text(json.dumps({**result, "training_s": 4320.0}))
    _, lines = make_plan()
    assert lines[1] == "2 rows x 2 seeds = 4 runs, of which 1 have finished"
    # Three runs of 1.2 hours, two at a time.
    (line,) = [line for line in lines if line.startswith("time: about 1.8 hours as the")]
    assert line.endswith("3.6 hours of all runs together")


def test_bytes_on_disk_are_those_of_weights_and_checkpoints(make_plan):
    _, lines = make_plan()
    base = {"checkpoints": {"num_to_keep": 4}, "training": {"ema_decay": 0.9}}
    _, others = make_plan({**base, "optimizer": {"kind": "adamw", "learning_rate": 0.001}})
    (few,), (many,) = ([x for x in found if x.startswith("disk")] for found in (lines, others))
    # tiny_cnn: checkpoints are 3 x (weights, momentum), and 5 x (weights, two moments, average).
    student = float(few.split()[1]) / 4
    assert float(few.split("and ")[1].split()[0]) == pytest.approx(6 * student, abs=0.01)
    assert float(many.split("and ")[1].split()[0]) == pytest.approx(20 * student, abs=0.01)


def test_searches_come_first(make_plan):
    tuned = {"trials": 3, "held_out": {"num_images": 64}}
    _, lines = make_plan(tuned=tuned)
    start = "before them 1 searches of 3 trials, scored on 64 held-out images: 3 trials, of which 0"
    assert any(line.startswith(start) for line in lines)
    assert "  base: nothing to tune" in lines
    assert "  kd: losses.kd.weight, losses.kd.temperature" in lines
    assert "left to train: 63 epochs, 252 steps" in lines


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_hours_are_not_known_without_a_gpu(make_plan):
    base = {"resources": {"num_workers": 1, "cpus_per_worker": 1, "gpu": True}}
    _, lines = make_plan(base)
    assert any(line.startswith("time: not known: the runs need a GPU") for line in lines)


def test_steps_of_a_job_are_timed_with_its_own_losses(make_compare_content, teacher):
    variants = {"dtkd": {"losses": None, "teacher.others": [teacher, teacher]}}
    loaded = parse_comparison(make_compare_content(variants=variants))
    base, dtkd = (time_images(job.spec) for job in loaded.jobs.values())
    assert 0 < base.evaluation_s < base.training_s < dtkd.training_s
    assert num_that_fit(loaded.base.spec) >= 1
