"""A run's page shows the values of its journal, and leaves out what the run has not logged."""

import html
import json
import re

import numpy as np
import pytest
from support.parsed_page import Page
from support.run_folders import STEPS_PER_EPOCH, journal_events, write_run_folder
from support.sweep_records import ATTACK

from service.run.folder import PAGE_NAME
from service.run.predictions import STUDENT_PREDICTIONS_NAME
from service.run_page.page import render_run_page, write_run_page
from service.spec.loading import parse_spec

NUM_EPOCHS = 6
SECTIONS = ["Accuracy", "Temperatures", "Calibration", "Training", "Spec"]
LOSSES = {"ce": {}, "dtkd": {"base_temperature": 4.5}, "kd": {}}


@pytest.fixture
def spec(make_content, teacher):
    return parse_spec(
        make_content(teacher=teacher, losses=LOSSES, schedule={"num_epochs": NUM_EPOCHS})
    )


def page_of(spec, events, **options):
    write_run_folder(spec.run_path, events, **options)
    return render_run_page(spec, spec.run_path)


def headings(text):
    return re.findall("<h2>(.*?)</h2>", text)


def facts(text):
    rows = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", text, re.DOTALL)
    return {html.unescape(label): html.unescape(value) for label, value in rows}


def figures(text):
    """The figures as the browser gets them, by the first line of their titles."""
    found = [json.loads(content) for kind, content in Page(text).scripts if "json" in str(kind)]
    return {figure["layout"]["title"]["text"].partition("<br>")[0]: figure for figure in found}


def line(figure, name):
    (trace,) = (trace for trace in figure["data"] if trace.get("name") == name)
    return [*zip(trace["x"], trace["y"], strict=True)]


def logged(events, kind, metric):
    return [(s / STEPS_PER_EPOCH, v[metric]) for k, s, _, v in events if k == kind if metric in v]


def test_lines_are_the_metrics_of_the_journal_by_epoch(spec):
    events = journal_events(NUM_EPOCHS)
    drawn = figures(page_of(spec, events))
    dtkd = "Softmax temperatures of dtkd"
    gap, shares = "Sharpness gap of dtkd", "Agreement with the teacher"
    for title, name, kind, metric in (
        ("Top-1 on val", "student", "evaluation", "val/top1"),
        (shares, "train, a batch", "interval", "train/agreement"),
        (shares, "val", "evaluation", "val/agreement"),
        (dtkd, "teacher", "interval", "dtkd/teacher_temperature_mean"),
        (dtkd, "student", "interval", "dtkd/student_temperature_mean"),
        (gap, "base temperature for both", "interval", "dtkd/gap_before"),
        (gap, "temperatures of each sample", "interval", "dtkd/gap_after"),
        ("Expected calibration error (ECE)", "student", "evaluation", "val/ece"),
        ("Losses", "total", "interval", "train/loss"),
        ("Losses", "dtkd", "interval", "train/dtkd"),
        ("Losses", "cross-entropy on val", "evaluation", "val/loss"),
        ("Learning rate", "learning rate", "interval", "train/learning_rate"),
        ("Speed", "images per second", "interval", "speed/images_per_s"),
    ):
        expected = logged(events, kind, metric)
        np.testing.assert_allclose(line(drawn[title], name), expected, rtol=1e-4, err_msg=metric)
        assert expected


def test_bands_are_the_5th_and_95th_percentiles(spec):
    events = journal_events(NUM_EPOCHS)
    figure = figures(page_of(spec, events))["Softmax temperatures of dtkd"]
    bands = [n for n, trace in enumerate(figure["data"]) if trace.get("fill") == "tonexty"]
    for number, side in zip(bands, ("teacher", "student"), strict=True):
        for trace, name in ((number - 1, "p5"), (number, "p95")):
            metric = f"dtkd/{side}_temperature_{name}"
            expected = [value for _, value in logged(events, "interval", metric)]
            np.testing.assert_allclose(figure["data"][trace]["y"], expected, rtol=1e-4)
    assert {y for _, y in line(figure, "base temperature")} == {4.5}


def test_learning_curve_marks_teacher_best_and_last(spec):
    events = journal_events(NUM_EPOCHS)
    curve = logged(events, "evaluation", "val/top1")
    figure = figures(page_of(spec, events))["Top-1 on val"]
    np.testing.assert_allclose(line(figure, "best"), [max(curve, key=lambda p: p[1])], rtol=1e-4)
    np.testing.assert_allclose(line(figure, "last"), curve[-1:], rtol=1e-4)
    assert line(figure, "teacher") == [(0, 0.8), (NUM_EPOCHS, 0.8)]


def test_facts_are_the_figures_of_the_run(spec):
    events = journal_events(NUM_EPOCHS)
    tags = {"dataset_train_num_images": "1281167", "dataset_val_fingerprint": 64 * "ab"}
    found = facts(page_of(spec, events, tags=tags))
    last = events[-1][3]
    assert found["State"] == "finished, 6 of 6 epochs, 60 steps"
    assert found["Losses"] == "ce x 1, dtkd x 3, kd x 0.9; warm-up 0.5 epochs"
    assert found["Top-1, last"] == f"{last['val/top1']:.2%}"
    assert found["Agreement"] == f"{last['val/agreement']:.2%}"
    assert found["Train"].endswith(", 1,281,167 images")
    assert found["Val"].endswith(", fingerprint abababababab")
    assert found["Teacher"].startswith("cifar:resnet8 (")


def test_sections_without_data_are_left_out(spec, make_content):
    assert headings(page_of(spec, journal_events(NUM_EPOCHS))) == SECTIONS
    assert headings(page_of(parse_spec(make_content(name="new")), [], predicts=False)) == ["Spec"]
    alone = parse_spec(make_content(name="alone"))
    keep = ("train/loss", "train/ce", "val/top1")
    events = [
        (kind, step, epoch, {name: value for name, value in values.items() if name in keep})
        for kind, step, epoch, values in journal_events(2, teacher_top1=None)
    ]
    text = page_of(alone, events, predicts=False)
    assert headings(text) == ["Accuracy", "Training", "Spec"]
    assert [*figures(text)] == ["Top-1 on val", "Losses"]
    assert "Teacher" not in facts(text)


def test_run_that_stopped_in_its_first_epoch_is_drawn_by_step(spec):
    events = journal_events(1)[:2]
    text = page_of(spec, events, state="stopped", predicts=False)
    assert headings(text) == ["Accuracy", "Temperatures", "Training", "Spec"]
    figure = figures(text)["Losses"]
    assert line(figure, "total") == [(5, pytest.approx(events[1][3]["train/loss"], rel=1e-4))]
    assert figure["layout"]["xaxis"]["title"]["text"] == "optimizer step"
    assert facts(text)["State"] == "stopped, 0 of 6 epochs, 5 steps"


def test_trial_is_shown_on_its_held_out_images(make_content, teacher):
    content = make_content(teacher=teacher)
    content["dataset"]["held_out"] = {"num_images": 64}
    text = page_of(parse_spec(content), journal_events(2, split="held_out"))
    assert "Top-1 on held-out images of train" in figures(text)
    assert facts(text)["Evaluated on"] == "64 held-out images of train"


def test_each_loss_with_temperatures_has_its_pictures(spec):
    events = journal_events(2)
    for _, _, _, values in events[1:]:
        values |= {"normkd/teacher_temperature_mean": 2.0, "ctkd/temperature": 3.0}
    titles = [title for title in figures(page_of(spec, events)) if "emperature" in title]
    assert titles == [f"Softmax temperatures of {loss}" for loss in ("dtkd", "normkd", "ctkd")]


def test_page_of_a_long_run_stays_small(spec):
    events = journal_events(2000, intervals_per_epoch=5)
    text = page_of(spec, events)
    assert len(text) < 3_000_000
    lengths = [len(trace["x"]) for figure in figures(text).values() for trace in figure["data"]]
    assert max(lengths) == 300


def test_untrusted_text_is_escaped_everywhere(spec):
    content = json.loads(spec.model_dump_json())
    content["teacher"]["weights"]["source"] += ATTACK
    events = journal_events(2)
    events[1][3].update({f"{ATTACK}/teacher_temperature_mean": 2.0})
    tags = {"dataset_train_fingerprint": ATTACK, "git_revision": ATTACK}
    attacked = type(spec).model_validate(content)
    text = page_of(attacked, events, tags=tags, state="failed")
    page = Page(text)
    assert [kind for kind, _ in page.scripts].count(None) == 1
    assert "img" not in page.tags
    assert page.sources == []
    drawn = json.dumps([*figures(text).values()])
    assert "<script" not in drawn
    assert "<img" not in drawn


def test_damaged_predictions_are_left_out(spec):
    write_run_folder(spec.run_path, journal_events(2))
    (spec.run_path / STUDENT_PREDICTIONS_NAME).write_bytes(b"damaged")
    figure = figures(render_run_page(spec, spec.run_path))["Accuracy by confidence"]
    assert [trace["name"] for trace in figure["data"] if "name" in trace][1:] == ["teacher"]


def test_page_is_written_into_the_folder(spec):
    write_run_folder(spec.run_path, journal_events(2))
    path = write_run_page(spec, spec.run_path)
    assert path == spec.run_path / PAGE_NAME
    assert headings(path.read_text()) == SECTIONS


def test_page_that_cannot_be_written_is_a_warning(spec, caplog):
    assert write_run_page(spec, spec.run_path / "absent") is None
    assert PAGE_NAME in caplog.text
