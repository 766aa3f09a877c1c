"""Training itself, without Ray: worker counts, resuming, evaluation and every optional part."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from image_makers import converted, write_folder
from safetensors.torch import load_file, save_file

from data_pipeline.beton import open_beton
from data_pipeline.loader import UndecodableSampleError
from data_pipeline.manifest import manifest_path
from data_pipeline.order import train_batches
from service.models.build import build_model
from service.spec import parse_spec
from service.tracking.journal import JOURNAL_NAME, read_events
from service.training.checkpoints import copied, newest_checkpoint, read_metadata
from service.training.construct import build_task
from service.training.data import WorkerData, World
from service.training.loop import train
from service.training.worker import Worker

CPU = torch.device("cpu")


class InterruptedRunError(Exception):
    """Stands for a killed worker."""


def run_alone(spec, stop_after_reports=None):
    """Train with one worker in this process; interrupt after so many reports."""
    spec.run_path.mkdir(parents=True, exist_ok=True)
    count = 0

    def report(metrics):
        nonlocal count
        count += 1
        if count == stop_after_reports:
            raise InterruptedRunError

    train(spec, World(0, 1, CPU, 1), report)


def run_rank(rank, content, world_size, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    train(parse_spec(content), World(rank, world_size, CPU, 1), lambda metrics: None)
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


def stop_at(steps, monkeypatch_setattr):
    """Let the worker die before its n-th step, counted over the whole run, for each n in turn."""
    step, remaining = Worker.step, list(steps)

    def step_or_die(worker, batch):
        if remaining and worker.progress.step + 1 == remaining[0]:
            remaining.pop(0)
            raise InterruptedRunError
        return step(worker, batch)

    monkeypatch_setattr(Worker, "step", step_or_die)


def loss_series(spec):
    events, _ = read_events(spec.run_path / JOURNAL_NAME)
    return [(e.kind, e.step, e.values.get("loss"), e.values.get("dtkd")) for e in events]


@pytest.mark.parametrize("every_steps", [1, 2, 3])
def test_run_killed_within_epochs_ends_as_if_it_was_not(
    make_content, teacher, monkeypatch, every_steps
):
    sections = {
        "teacher": teacher,
        "schedule": {"num_epochs": 3, "milestones": [2]},
        "training": {"ema_decay": 0.9},
        "checkpoints": {"every_steps": every_steps},
        "tracking": {"log_every_steps": 3},
    }
    straight = parse_spec(make_content(name="straight", **sections))
    killed = parse_spec(make_content(name="killed", **sections))
    run_alone(straight)
    deaths = (1, 3, 4, 6, 11, 12)
    stop_at(deaths, monkeypatch.setattr)
    for _ in deaths:
        with pytest.raises(InterruptedRunError):
            run_alone(killed)
    run_alone(killed)
    ours, theirs = final(killed), final(straight)
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in theirs[0])
    assert ours[1] == theirs[1]
    assert loss_series(killed) == loss_series(straight)


def run_rank_until(rank, content, world_size, store, step):
    """As run_rank, but every worker dies before a step."""
    stop_at([step], setattr)
    with contextlib.suppress(InterruptedRunError):
        run_rank(rank, content, world_size, store)


def test_two_workers_killed_within_an_epoch_end_as_if_they_were_not(
    make_content, teacher, tmp_path
):
    sections = {
        "teacher": teacher,
        "training": {"ema_decay": 0.9},
        "checkpoints": {"every_steps": 1},
        "tracking": {"log_every_steps": 3},
    }
    straight, killed = (make_content(name=name, **sections) for name in ("straight", "killed"))
    run_together(straight, 2, tmp_path)
    parse_spec(killed).run_path.mkdir(parents=True)
    for step in (3, 6):
        store = tmp_path / f"until{step}"
        mp.spawn(run_rank_until, (killed, 2, store, step), nprocs=2)
    (tmp_path / "store2").unlink()
    run_together(killed, 2, tmp_path)
    ours, theirs = final(parse_spec(killed)), final(parse_spec(straight))
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in theirs[0])
    assert loss_series(parse_spec(killed)) == loss_series(parse_spec(straight))


@pytest.mark.parametrize(
    "sections",
    [
        {},
        # 256 images make two steps of 96 and one of 64, of which a fourth worker has none.
        {
            "training": {"global_batch_size": 96, "micro_batch_size": 8, "last_batch": "keep"},
            "augmentation": {"mixing": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}},
            "tracking": {"log_every_steps": 3},
        },
    ],
    ids=["plain", "smaller last batch, mixed"],
)
def test_number_of_workers_does_not_change_the_arithmetic(
    make_content, teacher, tmp_path, sections
):
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
        {
            "augmentation": {
                "crop": "random_resized",
                "size": 8,
                "size_stages": [{"from_epoch": 1, "size": 12}],
            }
        },
        {"augmentation": {"rand_augment": {}, "colour_jitter": {"hue": 0.1}, "erasing": {}}},
        {"augmentation": {"mixing": {"mixup_alpha": 0.2}}},
        {"dataset": {"max_undecodable": 1}},
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


def test_a_kept_last_batch_counts_every_image_once(make_content):
    content = make_content(
        training={"global_batch_size": 96, "micro_batch_size": 96, "last_batch": "keep"},
        resources={"num_workers": 1, "cpus_per_worker": 1},
        schedule={"num_epochs": 1, "milestones": []},
        optimizer={"learning_rate": 1e-6},
        tracking={"log_every_steps": 3},
    )
    spec = parse_spec(content)
    run_alone(spec)
    _, progress = final(spec)
    assert progress["step"] == 3
    events, _ = read_events(spec.run_path / JOURNAL_NAME)
    found = next(event.values["ce"] for event in events if event.kind == "interval")
    # With so small a learning rate the network stands still: the mean of three means is known.
    torch.manual_seed(spec.seed)
    task = build_task(spec, CPU)
    data = WorkerData(spec, World(0, 1, CPU, 1), print)
    batches = list(data.train_batches(0, 0))
    data.close()
    assert [len(batch.labels) for batch in batches] == [96, 96, 64]
    losses = [float(task(batch.images, batch.labels, 1.0).parts["ce"]) for batch in batches]
    assert found == pytest.approx(np.mean(losses), rel=1e-4)


def test_progressive_resolution_gives_each_epoch_its_size(make_content):
    augmentation = {
        "crop": "random_resized",
        "size": 8,
        "size_stages": [{"from_epoch": 1, "size": 12}, {"from_epoch": 3, "size": 16}],
    }
    schedule = {"num_epochs": 4, "milestones": []}
    spec = parse_spec(make_content(augmentation=augmentation, schedule=schedule))
    data = WorkerData(spec, World(0, 1, CPU, 1), print)
    sizes = [next(iter(data.train_batches(epoch, 0))).images.shape[1:3] for epoch in range(4)]
    data.close()
    assert sizes == [(8, 8), (12, 12), (12, 12), (16, 16)]


def test_undecodable_image_within_the_budget_is_counted_and_trained_past(make_content, tmp_path):
    train_path = converted_folder(tmp_path)
    content = make_content(
        dataset={"train": str(train_path), "max_undecodable": 1},
        augmentation={"crop": "random_resized", "size": 12},
    )
    damage_sample(train_path, 3)
    spec = parse_spec(content)
    run_alone(spec)
    events, _ = read_events(spec.run_path / JOURNAL_NAME)
    assert [e.values["undecodable"] for e in events if e.kind == "interval"][-1] == 1
    content["name"], content["dataset"]["max_undecodable"] = "strict", 0
    with pytest.raises(UndecodableSampleError, match="sample 3 "):
        run_alone(parse_spec(content))


def converted_folder(tmp_path):
    path = tmp_path / "jpeg.beton"
    converted(write_folder(tmp_path / "images", num_classes=4, num_per_class=32), path)
    # Without its manifest the file is not compared with it at the start.
    manifest_path(path).unlink()
    return path


def damage_sample(path, index):
    file = open_beton(path)
    with path.open("r+b") as stream:
        stream.seek(int(file.samples["image"]["data_ptr"][index]))
        stream.write(bytes(int(file.data_sizes[index])))


def test_staged_datasets_are_trained_on_and_released(make_content, tmp_path):
    shared, cache = tmp_path / "shared", tmp_path / "cache"
    for seed, split in enumerate(("train", "val")):
        images = write_folder(tmp_path / split, num_classes=4, num_per_class=20 + 20 * seed)
        converted(images, shared / f"{split}.beton")
    dataset = {
        "train": str(shared / "train.beton"),
        "val": str(shared / "val.beton"),
        "cache": {"path": str(cache)},
    }
    spec = parse_spec(
        make_content(dataset=dataset, augmentation={"crop": "random_resized", "size": 12})
    )
    run_alone(spec)
    assert final(spec)[1]["epoch"] == 2
    copies = sorted(path.name for path in cache.rglob("*.beton"))
    assert copies == ["train.beton", "val.beton"]
    notes = [e.text for e in read_events(spec.run_path / JOURNAL_NAME)[0] if e.kind == "note"]
    assert any("train.beton" in note for note in notes)


def test_dataset_that_cannot_be_staged_refuses_the_run(make_content, tmp_path):
    shared = tmp_path / "shared"
    converted(write_folder(tmp_path / "train", 4, 20), shared / "train.beton")
    dataset = {
        "train": str(shared / "train.beton"),
        "val": str(shared / "train.beton"),
        "cache": {"path": str(tmp_path / "cache"), "limit_bytes": 1000},
    }
    spec = parse_spec(
        make_content(dataset=dataset, augmentation={"crop": "random_resized", "size": 12})
    )
    run_alone(spec)
    text = json.loads((spec.run_path / "refusal.json").read_text())["text"]
    assert text.startswith("dataset.train: ")
    assert "limit" in text
    assert newest_checkpoint(spec.run_path) is None


def test_diverging_run_stops_with_advice(make_content):
    spec = parse_spec(make_content(optimizer={"learning_rate": 1e30}))
    run_alone(spec)
    reason = json.loads((spec.run_path / "refusal.json").read_text())
    assert "optimizer.learning_rate" in reason["text"]
    assert reason["exit_status"] == 1


def poison(steps, setattr_):
    """Make the gradient of some steps infinite on the last rank: one label's loss overflows."""
    accumulate = Worker._accumulate_gradients

    def accumulate_poisoned(worker, batch):
        output = accumulate(worker, batch)
        if worker.progress.step in steps and worker._world.rank == worker._world.size - 1:
            next(iter(worker._student.parameters())).grad.add_(float("inf"))
        return output

    setattr_(Worker, "_accumulate_gradients", accumulate_poisoned)


def test_poisoned_step_is_skipped_without_a_trace(make_content, monkeypatch):
    sections = {
        "training": {"on_nonfinite": "skip", "max_skipped_steps": 2, "ema_decay": 0.9},
        "schedule": {"num_epochs": 1, "milestones": []},
        "tracking": {"log_every_steps": 4},
    }
    spec = parse_spec(make_content(name="skipped", **sections))
    poison({1, 3}, monkeypatch.setattr)
    before = {}
    go_without = Worker._go_without

    def remember(worker, batch, norm):
        go_without(worker, batch, norm)
        before[worker.progress.step] = copied(worker._student.state_dict())

    step = Worker.step
    states = []

    def step_and_look(worker, batch):
        states.append(copied(worker._student.state_dict()))
        return step(worker, batch)

    monkeypatch.setattr(Worker, "_go_without", remember)
    monkeypatch.setattr(Worker, "step", step_and_look)
    run_alone(spec)
    assert sorted(before) == [1, 3]
    for poisoned, state in before.items():
        assert all(torch.equal(state[name], states[poisoned][name]) for name in state)
    assert final(spec)[1]["skipped"] == 2
    interval = next(e for e in read_events(spec.run_path / JOURNAL_NAME)[0] if e.kind == "interval")
    assert np.isfinite(interval.values["loss"])
    assert interval.values["skipped_steps"] == 2
    order = next(train_batches(256, 64, seed=0, epoch=0, rank=0, world_size=1, start=3))
    dump = json.loads((spec.run_path / "nonfinite_step0000000003_rank0.json").read_text())
    assert dump["samples"] == order.tolist()


def test_one_poisoned_step_too_many_ends_the_run(make_content, monkeypatch):
    training = {"on_nonfinite": "skip", "max_skipped_steps": 1}
    spec = parse_spec(make_content(training=training))
    poison({2, 5}, monkeypatch.setattr)
    run_alone(spec)
    text = json.loads((spec.run_path / "refusal.json").read_text())["text"]
    assert "step 5 is not finite, after 1 skipped" in text
    assert newest_checkpoint(spec.run_path).name == "checkpoint_0000000004"
