"""The records, the table and the files of a comparison, from folders that the test writes."""

import csv
import json

import numpy as np
import pytest
from support.confirm_runs import write_journal, write_result

from service.compare.jobs import RunKey, run_specs
from service.compare.loading import parse_comparison
from service.compare.outcome import outcome_of, page_facts, write_outcome
from service.compare.reading import RunRecords, read_record
from service.compare.spec import Variant
from service.run.predictions import (
    STUDENT_PREDICTIONS_NAME,
    TEACHER_PREDICTIONS_NAME,
    Predictions,
)

BASE, KD = Variant("", "base"), Variant("", "kd")


@pytest.fixture
def specs(make_compare_content):
    base = {"schedule": {"num_epochs": 9, "milestones": []}}
    variants = {"kd": {"losses": {"ce": {}, "kd": {}}, "optimizer.momentum": 0.5}}
    return run_specs(parse_comparison(make_compare_content(base, variants=variants)).compare)


@pytest.fixture
def compare(make_compare_content):
    variants = {"kd": {"losses": {"ce": {}, "kd": {}}, "optimizer.momentum": 0.5}}
    return parse_comparison(make_compare_content(variants=variants)).compare


def predictions(predicted, confidence):
    count = len(predicted)
    return Predictions(
        np.arange(count),
        np.zeros(count, np.int32),
        np.array(predicted, np.int32),
        np.full(count, confidence, np.float32),
        np.ones(count, bool),
        np.ones(count, np.float32),
    )


def test_record_has_what_the_folder_has(specs):
    spec = specs[RunKey(KD, 1)]
    write_journal(
        spec,
        ("interval", 2, 0, {"speed/images_per_s": 100.0, "dtkd/teacher_temperature_mean": 3.0}),
        ("evaluation", 4, 1, {"val/top1": 0.25, "system/peak_memory_bytes": 5e6}),
        ("interval", 6, 1, {"speed/images_per_s": 300.0, "dtkd/teacher_temperature_mean": 4.0}),
        ("interval", 7, 1, {"speed/images_per_s": 200.0, "ctkd/temperature": 2.0}),
    )
    running = read_record(RunKey(KD, 1), spec, "running", None)
    assert (running.state, running.last_top1) == ("running", None)
    write_result(spec, 0.5)
    predictions([0, 0, 1, 1], 0.75).write(spec.run_path / STUDENT_PREDICTIONS_NAME)

    record = read_record(RunKey(KD, 1), spec, "waiting", "an earlier failure")
    assert (record.pair, record.variant, record.seed, record.state) == ("", "kd", 1, "finished")
    assert (record.num_epochs, record.last_top1, record.error) == (9, 0.5, None)
    assert record.curve == ((1.0, 0.25), (9.0, 0.5))
    assert (record.images_per_s, record.peak_memory_bytes) == (200.0, 5e6)
    # Four steps are an epoch.
    assert record.temperatures == {
        "dtkd/teacher_temperature_mean": ((0.5, 3.0), (1.5, 4.0)),
        "ctkd/temperature": ((1.75, 2.0),),
    }
    assert list(record.student.predicted) == [0, 0, 1, 1]
    assert record.teacher is None


def test_damaged_predictions_are_left_out(specs, caplog):
    spec = specs[RunKey(BASE, 0)]
    write_result(spec, 0.5)
    (spec.run_path / STUDENT_PREDICTIONS_NAME).write_bytes(b"damaged")
    assert read_record(RunKey(BASE, 0), spec, "waiting", None).student is None
    assert "student_predictions.safetensors" in caplog.text


def test_table_and_files(specs, compare):
    for key, top1 in {(BASE, 0): 0.5, (BASE, 1): 0.52, (KD, 0): 0.56, (KD, 1): 0.59}.items():
        write_result(specs[RunKey(*key)], top1)
    folder = specs[RunKey(KD, 0)].run_path
    # Half of the images are right, with confidence 0.75; three of four agree with the teacher.
    predictions([0, 0, 1, 1], 0.75).write(folder / STUDENT_PREDICTIONS_NAME)
    predictions([0, 0, 1, 2], 0.5).write(folder / TEACHER_PREDICTIONS_NAME)
    records = RunRecords(specs).read({}, {})
    outcome = outcome_of(compare, records, {})
    assert outcome.are_finished
    write_outcome(outcome)

    lines = outcome.table.splitlines()
    assert lines[0].split()[:3] == ["variant", "seeds", "top-1"]
    assert lines[1].startswith("base     2      51.00 +- 1.41  ")
    assert lines[2].startswith("kd       2      57.50 +- 2.12  ")
    for text in ("+6.50", "+0.15 to +12.85", "better than the base", "25.00", "75.00"):
        assert text in lines[2]
    assert "kd: not the same recipe: optimizer.momentum" in lines
    for name in ("ECE", "agreement"):
        line = f"kd: {name} is without seed 1, which has no predictions"
        assert line in lines
        assert ("Predictions", line) in page_facts(outcome)
    assert not any(line.startswith("base: ECE") for line in lines)
    with (compare.compare_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["variant"], r["seed"], r["last_top1"]) for r in rows] == [
        ("base", "0", "0.5"),
        ("base", "1", "0.52"),
        ("kd", "0", "0.56"),
        ("kd", "1", "0.59"),
    ]
    assert [row["ece"] for row in rows] == ["", "", "0.25", ""]
    assert ("Runs", "4: 4 finished") in page_facts(outcome)
    assert (compare.compare_path / "results.txt").read_text() == outcome.table + "\n"


def test_states_and_errors_of_this_submission(specs, compare):
    failed, running = (specs[RunKey(KD, seed)].run_path for seed in (0, 1))
    write_result(specs[RunKey(BASE, 0)], 0.5)
    records = RunRecords(specs).read(
        {failed: "failed", running: "running"}, {failed: "worker 0 was killed"}
    )
    assert [record.state for record in records] == ["finished", "failed", "waiting", "running"]
    outcome = outcome_of(compare, records, {})
    assert not outcome.are_finished
    assert "kd: seed 0 failed: worker 0 was killed" in outcome.table.splitlines()
    facts = dict(page_facts(outcome))
    assert facts["Runs"] == "4: 1 finished, 1 failed, 1 running, 1 waiting"
    assert facts["Failed: kd"] == "seed 0: worker 0 was killed"


def test_failure_of_an_earlier_submission_is_known(specs):
    folder = specs[RunKey(KD, 0)].run_path
    folder.mkdir(parents=True)
    status = {"name": "kd-seed-0", "state": "failed", "last_failure": "worker 0 was killed"}
    (folder / "status.json").write_text(json.dumps(status))
    records = RunRecords(specs).read({}, {})
    assert [(r.state, r.error) for r in records if (r.variant, r.seed) == ("kd", 0)] == [
        ("failed", "worker 0 was killed")
    ]
