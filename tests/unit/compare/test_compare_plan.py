"""What a plan counts, and where the hours come from."""

import json

import pytest
import torch
from support.confirm_runs import write_result
from support.finished_runs import snapshot

from service.compare import plan
from service.compare.jobs import run_specs
from service.compare.loading import parse_comparison
from service.compare.timing import ImageTime, num_that_fit, time_images
from service.compare.tuned_space import tuned_rows

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
    # Four students, and with kd two copies of the teacher's: 25 bytes of each of 101 images.
    assert f"{6 * 25 * 101 / 1e3:.2f} kB of predictions" in few
    assert "about 2.50 MB of the page" in few
    # tiny_cnn: checkpoints are 3 x (weights, momentum), and 5 x (weights, two moments, average).
    student = float(few.split()[1]) / 4
    assert float(few.split("and ")[1].split()[0]) == pytest.approx(6 * student, abs=0.01)
    assert float(many.split("and ")[1].split()[0]) == pytest.approx(20 * student, abs=0.01)


def test_bytes_on_disk_are_also_those_of_students_that_wait_for_mlflow(make_plan):
    _, lines = make_plan({"tracking": {"checkpoints": {"newest": 6}}})
    (line,) = (x for x in lines if x.startswith("disk"))
    student = float(line.split()[1]) / 4
    # Of each of the four runs, six and the one that is being written.
    waiting = float(line.partition(" at a time, ")[2].split()[0])
    assert waiting == pytest.approx(28 * student, rel=0.01)


def timed_losses(monkeypatch):
    """Active losses, and the number of the teacher's networks, of each job that is timed."""
    timed = []

    def time_and_record(spec):
        timed.append((",".join(spec.effective_losses().active), len(spec.networks()) - 1))
        return ImageTime(2.0 * len(timed), 0.5)

    monkeypatch.setattr(plan, "time_images", time_and_record)
    return timed


KINDS = {
    "kd": {"losses": {"ce": {}, "kd": {}}},
    "kd2": {"losses": {"ce": {}, "kd": {"weight": 2}}},
    "dist": {"losses": {"ce": {}, "dist": {}}},
}


def test_each_kind_of_loss_and_teacher_is_timed(make_compare_content, teacher, monkeypatch):
    timed = timed_losses(monkeypatch)
    two = {"losses": {"ce": {}, "kd": {}}, "teacher.others": [teacher]}
    content = make_compare_content(NINE, variants={**KINDS, "two": two})
    text = plan.format_plan(parse_comparison(content))
    assert timed == [("ce", 1), ("ce,kd", 1), ("ce,dist", 1), ("ce,kd", 2)]
    assert "were not timed" not in text


def test_rows_of_too_many_kinds_count_as_the_most_alike(make_compare_content, monkeypatch):
    timed = timed_losses(monkeypatch)
    monkeypatch.setattr(plan, "MAX_TIMED", 2)
    loaded = parse_comparison(make_compare_content(NINE, variants=KINDS, concurrency=1))
    lines = plan.format_plan(loaded).splitlines()
    assert len(timed) == 2
    (line,) = [line for line in lines if line.startswith("time: about")]
    assert "(1 rows were not timed, but count as the most alike)" in line
    # Labels 2 s an image, all others 4 s.
    hours = 18 * (256 * (2.0 + 3 * 4.0) + 4 * 101 * 0.5) / 3600
    assert f"{hours:.2g} hours of all runs together" in line or f"{hours:.0f} hours" in line


def test_plan_writes_nothing_into_a_search(make_compare_content, teacher, monkeypatch):
    monkeypatch.setattr(plan, "time_images", lambda _: ImageTime(2.0, 0.5))
    tuned = {"trials": 3, "held_out": {"num_images": 64}}
    loaded = parse_comparison(make_compare_content(NINE, tuned=tuned))
    (search,) = tuned_rows(loaded.compare).values()
    for number, state in enumerate(("finished", "failed", "running")):
        trial = search.base.located_at(search.sweep_path / "trials" / f"trial-000{number}")
        write_result(trial, 0.5)
        if state != "finished":
            (trial.run_path / "result.json").unlink()
            status = {"name": "trial", "state": state}
            (trial.run_path / "status.json").write_text(json.dumps(status))
    (search.sweep_path / "search.log").write_text('{"op_code": 0}\n{"torn')
    before = snapshot(search.sweep_path)
    assert "3 trials, of which 2 have ended" in plan.format_plan(loaded)
    assert snapshot(search.sweep_path) == before


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


def test_the_teachers_logits_are_computed_once_for_each_seed(make_plan, teacher):
    base = {"teacher": {**teacher, "cache": {"epochs": 1}}}
    loaded, lines = make_plan(base, seeds=[0, 1, 2])
    (line,) = (line for line in lines if line.startswith("teacher.cache: logits of 3 epochs, "))
    assert line.endswith("; nothing is stored yet")
    # Three runs of 9 epochs need the teacher; those of the base do not.
    assert any(line.startswith("it saves 24 of 27 passes") for line in lines)
    assert any("jobs/cache_teacher.py" in line for line in lines)
    finished = next(s for key, s in run_specs(loaded.compare).items() if s.uses_teacher)
    write_result(finished, 0.5)
    _, lines = make_plan(base, seeds=[0, 1, 2])
    assert any(line.startswith("it saves 16 of 18 passes") for line in lines)
    _, lines = make_plan(base, concurrency=1)
    assert not any("jobs/cache_teacher.py" in line for line in lines)


def test_searches_read_logits_of_their_own_images(make_plan, teacher):
    base = {"teacher": {**teacher, "cache": {"epochs": 1}}}
    _, lines = make_plan(base, tuned={"trials": 3, "held_out": {"num_images": 64}})
    # Those of three trials without the held-out images, and of a run with each of two seeds.
    (line,) = (line for line in lines if line.startswith("teacher.cache: logits of 3 epochs, "))
    assert f"{(192 + 2 * 256) * 12 / 1000:.2f} kB" in line
    assert any(line.startswith("it saves 42 of 45 passes") for line in lines)
