"""Training without Ray: numbers of workers, evaluation, and every optional part."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training_runs import final, run_alone, run_together

from data_pipeline.beton import open_beton
from service.models.build import build_model
from service.run.journal import JOURNAL_NAME, read_events
from service.run.predictions import (
    STUDENT_PREDICTIONS_NAME,
    TEACHER_PREDICTIONS_NAME,
    read_predictions,
    reliability,
)
from service.spec.loading import parse_spec
from service.training.checkpoint import newest_checkpoint


@pytest.mark.parametrize(
    "sections",
    [
        {},
        # 256 images are two steps of 96 and one of 64, of which the fourth worker has none.
        {
            "training": {"global_batch_size": 96, "micro_batch_size": 8, "drop_last": False},
            "augmentation": {"mixing": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}},
            "tracking": {"log_every_steps": 3},
        },
    ],
    ids=["plain", "smaller last batch and mixing"],
)
def test_number_of_workers_does_not_change_the_result(make_content, teacher, tmp_path, sections):
    contents = {
        size: make_content(
            name=f"world{size}",
            teacher=teacher,
            resources={"num_workers": size, "cpus_per_worker": 1},
            **sections,
        )
        for size in (1, 2, 4)
    }
    for size, content in contents.items():
        run_together(content, size, tmp_path)
    reference, progress = final(parse_spec(contents[1]))
    student, teacher_of = (predictions(contents[1], name) for name in PREDICTION_NAMES)
    assert student.are_right.mean() == progress["last_top1"]
    assert teacher_of.are_right.mean() == progress["teacher_top1"]
    for size in (2, 4):
        weights, other_progress = final(parse_spec(contents[size]))
        for name, tensor in reference.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
        assert other_progress["last_top1"] == progress["last_top1"]
        for expected, name in zip((student, teacher_of), PREDICTION_NAMES, strict=True):
            assert_same_predictions(predictions(contents[size], name), expected)
    losses = [
        [
            event.values["train/loss"]
            for event in read_events(parse_spec(c).run_path / JOURNAL_NAME)
            if event.kind == "interval"
        ]
        for c in contents.values()
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-5)


PREDICTION_NAMES = (STUDENT_PREDICTIONS_NAME, TEACHER_PREDICTIONS_NAME)


def predictions(content, name):
    return read_predictions(parse_spec(content).run_path / name)


def assert_same_predictions(found, expected):
    assert found.samples.tolist() == list(range(101))
    for name in ("labels", "predicted", "in_top5"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()
    np.testing.assert_allclose(found.confidences, expected.confidences, atol=1e-4)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-3, atol=1e-4)


def test_training_learns_and_reports_the_accuracy_of_a_plain_count(make_content):
    content = make_content(schedule={"num_epochs": 12, "milestones": [8]})
    spec = parse_spec(content)
    run_alone(spec)
    weights, progress = final(spec)
    model = build_model("cifar:tiny_cnn", 4)
    model.load_state_dict(weights)
    file, data = open_beton(Path(spec.dataset.val)), Path(spec.dataset.val).read_bytes()
    pixels = np.stack(
        [
            np.frombuffer(data, np.uint8, 768, int(start)).reshape(16, 16, 3)
            for start in file.samples["image"]["data_ptr"]
        ]
    )
    mean, std = np.array(spec.dataset.normalization.mean), np.array(spec.dataset.normalization.std)
    images = torch.tensor(((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    with torch.no_grad():
        is_correct = model.eval()(images).argmax(1).numpy() == file.labels
    assert progress["last_top1"] == is_correct.sum() / 101
    assert progress["last_top1"] > 0.9
    assert progress["best_top1"] >= progress["last_top1"]
    assert progress["last_top5"] == 1.0
    (values,) = (e.values for e in events_of(spec, "evaluation") if e.epoch == 12)
    found = read_predictions(spec.run_path / STUDENT_PREDICTIONS_NAME)
    assert found.are_right.tolist() == is_correct.tolist()
    assert found.labels.tolist() == file.labels.tolist()
    # The student is tiny, and may fit where earlier tests left memory free.
    assert 0 <= values["system/peak_memory_bytes"] < 1e9
    assert values["val/ece"] == reliability(found).calibration_error


def events_of(spec, kind):
    return [e for e in read_events(spec.run_path / JOURNAL_NAME) if e.kind == kind]


DTKD = {"ce": {}, "dtkd": {}, "kd": {"weight": 1}}


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"precision": "bfloat16"}},
        {"training": {"max_grad_norm": 0.01, "label_smoothing": 0.1}},
        {"optimizer": {"kind": "adamw", "learning_rate": 1e-3}},
        {"optimizer": {"nesterov": True, "decay_norms_and_biases": False}},
        {"augmentation": {"crop": "random_resized", "size": 12}},
        {
            "augmentation": {
                "crop": "random_resized",
                "size": 8,
                "size_stages": [{"from_epoch": 1, "size": 12}],
            }
        },
        {"augmentation": {"rand_augment": {}, "color_jitter": {"hue": 0.1}, "erasing": {}}},
        {"augmentation": {"mixing": {"mixup_alpha": 0.2}}},
        {"dataset": {"max_undecodable": 1}},
        {"losses": {**DTKD, "dtkd": {"sharpness": "logsumexp", "detach": True}}},
        {"losses": {**DTKD, "dtkd": {"sharpness": "norm"}, "warmup_epochs": 0}},
        {"student": {"model": "cifar:wrn_16_1"}},
    ],
    ids=lambda sections: json.dumps(sections)[:50],
)
def test_optional_parts_train(make_content, teacher, sections):
    spec = parse_spec(make_content(teacher=teacher, **sections))
    run_alone(spec)
    events = read_events(spec.run_path / JOURNAL_NAME)
    intervals = [event.values for event in events if event.kind == "interval"]
    assert len(intervals) == 4
    assert all(np.isfinite(list(values.values())).all() for values in intervals)
    names = {"train/dtkd", "train/kd", "train/ce", "train/agreement"}
    names |= {"dtkd/student_temperature_p95", "dtkd/gap_after"}
    assert names <= intervals[0].keys()


def test_gradient_clipping_bounds_the_update(make_content):
    content = make_content(
        training={"max_grad_norm": 1e-3},
        optimizer={"learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0},
        schedule={"num_epochs": 1, "milestones": []},
    )
    spec = parse_spec(content)
    run_alone(spec)
    torch.manual_seed(spec.seed)
    start = build_model("cifar:tiny_cnn", 4)
    weights, progress = final(spec)
    moved = sum((weights[name] - p.detach()).square().sum() for name, p in start.named_parameters())
    # Each step moves by at most learning rate x norm.
    assert 0 < moved.sqrt().item() <= progress["step"] * 1e-3 * 1.001


def test_weak_teacher_aborts_the_run_before_training(make_content, teacher):
    spec = parse_spec(make_content(teacher={**teacher, "min_top1": 0.99}))
    run_alone(spec)
    text = json.loads((spec.run_path / "abort.json").read_text())["text"]
    assert text.startswith("teacher.min_top1")
    assert "normalization" in text
    assert newest_checkpoint(spec.run_path) is None


def test_two_workers_read_what_one_has_stored_of_the_teacher(make_content, teacher, tmp_path):
    sections = {"teacher": {**teacher, "cache": {}}}
    alone = parse_spec(make_content(name="alone", **sections))
    run_alone(alone)
    content = make_content(name="together", **sections)
    run_together(content, 2, tmp_path)
    together = parse_spec(content)
    texts = [event.text for event in read_events(together.run_path / JOURNAL_NAME)]
    assert "teacher.cache: 100.0% of the logits were read, the rest computed" in texts
    weights, expected = final(together)[0], final(alone)[0]
    assert all(torch.allclose(weights[name], expected[name], atol=1e-4) for name in expected)
