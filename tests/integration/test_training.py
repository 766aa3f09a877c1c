"""Training itself, without Ray: worker counts, resuming, evaluation and every optional part."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from data_pipeline.beton import open_beton
from service.models.build import build_model
from service.spec import parse_spec
from service.tracking.journal import JOURNAL_NAME, read_events
from service.training.checkpoints import newest_checkpoint, read_metadata
from service.training.loop import train
from service.training.worker import World

CPU = torch.device("cpu")


class InterruptedRunError(Exception):
    """Stands for a killed worker."""


def run_alone(spec, stop_after_reports=None):
    """Train with one worker in this process; interrupt after so many reports."""
    spec.run_path.mkdir(parents=True, exist_ok=True)
    count = 0

    def report(metrics, path):
        nonlocal count
        count += 1
        if count == stop_after_reports:
            raise InterruptedRunError

    train(spec, World(0, 1, CPU, 1), report)


def run_rank(rank, content, world_size, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    train(parse_spec(content), World(rank, world_size, CPU, 1), lambda metrics, path: None)
    dist.destroy_process_group()


def run_together(content, world_size, tmp_path):
    parse_spec(content).run_path.mkdir(parents=True, exist_ok=True)
    store = tmp_path / f"store{world_size}"
    mp.spawn(run_rank, (content, world_size, store), nprocs=world_size)


def final(spec):
    path = newest_checkpoint(spec.run_path)
    return load_file(path / "student.safetensors"), read_metadata(path)["progress"]


@pytest.fixture
def teacher(tmp_path):
    """A teacher section with weights that someone trained for another seed of the same data."""
    torch.manual_seed(9)
    save_file(build_model("cifar:resnet8", 4).state_dict(), tmp_path / "teacher.safetensors")
    return {"model": "cifar:resnet8", "weights": {"source": str(tmp_path / "teacher.safetensors")}}


def test_interrupted_run_ends_with_the_same_weights(make_content, teacher):
    schedule = {"num_epochs": 4, "milestones": [2]}
    training = {"ema_decay": 0.9}
    sections = {"teacher": teacher, "schedule": schedule, "training": training}
    straight = parse_spec(make_content(name="straight", **sections))
    resumed = parse_spec(make_content(name="resumed", **sections))
    run_alone(straight)
    for stop in (1, 2):
        with pytest.raises(InterruptedRunError):
            run_alone(resumed, stop_after_reports=stop)
    run_alone(resumed)
    ours, theirs = final(straight), final(resumed)
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in ours[0])
    assert ours[1] == theirs[1]
    journals = [read_events(spec.run_path / JOURNAL_NAME)[0] for spec in (straight, resumed)]
    series = [[(e.kind, e.step, e.values.get("loss")) for e in events] for events in journals]
    assert series[0] == series[1]


def test_number_of_workers_does_not_change_the_arithmetic(make_content, teacher, tmp_path):
    contents = {
        size: make_content(
            name=f"world{size}",
            teacher=teacher,
            resources={"num_workers": size, "cpus_per_worker": 1},
        )
        for size in (1, 2, 4)
    }
    for size, content in contents.items():
        run_together(content, size, tmp_path)
    reference, progress = final(parse_spec(contents[1]))
    for size in (2, 4):
        weights, other_progress = final(parse_spec(contents[size]))
        for name, tensor in reference.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
        assert other_progress["last_top1"] == progress["last_top1"]
    losses = [
        [
            event.values["loss"]
            for event in read_events(parse_spec(c).run_path / JOURNAL_NAME)[0]
            if event.kind == "interval"
        ]
        for c in contents.values()
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-5)


def test_training_learns_and_accuracy_is_that_of_a_plain_count(make_content):
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
        right = model.eval()(images).argmax(1).numpy() == file.labels
    assert progress["last_top1"] == right.sum() / 101
    assert progress["last_top1"] > 0.9
    assert progress["best_top1"] >= progress["last_top1"]
    assert progress["last_top5"] == 1.0


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"precision": "bfloat16"}},
        {"training": {"max_grad_norm": 0.01, "label_smoothing": 0.1}},
        {"optimizer": {"kind": "adamw", "learning_rate": 1e-3}},
        {"optimizer": {"nesterov": True, "decay_norms_and_biases": False}},
        {"augmentation": {"crop": "random_resized", "size": 12}},
        {"method": {"sharpness": "logsumexp", "detach": True}},
        {"method": {"sharpness": "norm", "warmup_epochs": 0}},
        {"student": {"model": "cifar:wrn_16_1"}},
    ],
    ids=lambda sections: json.dumps(sections)[:50],
)
def test_optional_parts_train(make_content, teacher, sections):
    spec = parse_spec(make_content(teacher=teacher, **sections))
    run_alone(spec)
    events, _ = read_events(spec.run_path / JOURNAL_NAME)
    intervals = [event.values for event in events if event.kind == "interval"]
    assert len(intervals) == 4
    assert all(np.isfinite(list(values.values())).all() for values in intervals)
    assert {"dtkd", "kd", "ce", "temperature_student_p95", "gap_after", "agreement"} <= set(
        intervals[0]
    )


def test_clipping_bounds_the_update(make_content):
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
    # Each of the steps moves by at most learning rate x norm.
    assert 0 < moved.sqrt().item() <= progress["step"] * 1e-3 * 1.001


def test_weak_teacher_stops_the_job_before_training(make_content, teacher):
    spec = parse_spec(make_content(teacher={**teacher, "min_top1": 0.99}))
    run_alone(spec)
    text = json.loads((spec.run_path / "refusal.json").read_text())["text"]
    assert text.startswith("teacher.min_top1")
    assert "normalization" in text
    assert newest_checkpoint(spec.run_path) is None


def test_diverging_run_stops_with_advice(make_content):
    spec = parse_spec(make_content(optimizer={"learning_rate": 1e30}))
    with pytest.raises(FloatingPointError, match=r"optimizer\.learning_rate"):
        run_alone(spec)
