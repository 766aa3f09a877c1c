"""The images of a training run: sizes, last batches, damaged files, staged datasets."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.image_makers import converted, write_folder
from support.spec_contents import write_stripes
from support.training_runs import CPU, final, run_alone

from data_pipeline.batches import UndecodableSampleError
from data_pipeline.beton import open_beton
from data_pipeline.manifest import manifest_path
from data_pipeline.selection import sample_keys, split_held_out
from service.distillation.task import MicroBatch
from service.run.execution import Execution
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.loading import parse_spec
from service.training.checkpoint import newest_checkpoint
from service.training.data import WorkerData
from service.training.distributed import World
from service.training.factory import build_task


def test_smaller_last_step_counts_every_image_once(make_content):
    content = make_content(
        training={"global_batch_size": 96, "micro_batch_size": 96, "drop_last": False},
        resources={"num_workers": 1, "cpus_per_worker": 1},
        schedule={"num_epochs": 1, "milestones": []},
        optimizer={"learning_rate": 1e-6},
        tracking={"log_every_steps": 3},
    )
    spec = parse_spec(content)
    run_alone(spec)
    _, progress = final(spec)
    assert progress["step"] == 3
    events = read_events(spec.run_path / JOURNAL_NAME)
    found = next(event.values["train/ce"] for event in events if event.kind == "interval")
    # With a learning rate this small the weights hardly change: the mean of three means is known.
    torch.manual_seed(spec.seed)
    task = build_task(spec, CPU, Execution.plain(spec))
    data = WorkerData(spec, World(0, 1, CPU, 1), print)
    batches = list(data.train_batches(0, 0))
    data.close()
    assert [len(batch.labels) for batch in batches] == [96, 96, 64]
    losses = [
        float(task([batch.images], MicroBatch(batch.labels, 0)).parts["ce"]) for batch in batches
    ]
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


def test_batches_that_were_started_ahead_are_those_of_their_epoch(make_content):
    augmentation = {
        "crop": "random_resized",
        "size": 8,
        "size_stages": [{"from_epoch": 2, "size": 12}],
    }
    schedule = {"num_epochs": 3, "milestones": []}
    spec = parse_spec(make_content(augmentation=augmentation, schedule=schedule))
    ahead, plain = (WorkerData(spec, World(0, 1, CPU, 2), print) for _ in range(2))
    ahead.start_ahead(2)
    for place in ((2, 0), (2, 0), (1, 0), (2, 1)):
        found, expected = (list(data.train_batches(*place)) for data in (ahead, plain))
        for one, other in zip(found, expected, strict=True):
            assert np.array_equal(one.indices, other.indices)
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
        ahead.start_ahead(2)
    ahead.close()
    plain.close()


def test_undecodable_image_within_the_limit_is_counted_and_replaced(make_content, tmp_path):
    train_path = converted_folder(tmp_path)
    content = make_content(
        dataset={"train": str(train_path), "max_undecodable": 1},
        augmentation={"crop": "random_resized", "size": 12},
    )
    damage_sample(train_path, 3)
    spec = parse_spec(content)
    run_alone(spec)
    events = read_events(spec.run_path / JOURNAL_NAME)
    assert [e.values["data/undecodable"] for e in events if e.kind == "interval"][-1] == 1
    content["name"], content["dataset"]["max_undecodable"] = "strict", 0
    with pytest.raises(UndecodableSampleError, match="sample 3 "):
        run_alone(parse_spec(content))


def converted_folder(tmp_path):
    path = tmp_path / "jpeg.beton"
    converted(write_folder(tmp_path / "images", num_classes=4, num_per_class=32), path)
    # Otherwise the damage is found at the start.
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
    notes = [e.text for e in read_events(spec.run_path / JOURNAL_NAME) if e.kind == "note"]
    assert any("train.beton" in note for note in notes)


def test_dataset_that_cannot_be_staged_aborts_the_run(make_content, tmp_path):
    shared = tmp_path / "shared"
    converted(write_folder(tmp_path / "train", 4, 20), shared / "train.beton")
    dataset = {
        "train": str(shared / "train.beton"),
        "val": str(shared / "train.beton"),
        "cache": {"path": "/proc/nowhere"},
    }
    spec = parse_spec(
        make_content(dataset=dataset, augmentation={"crop": "random_resized", "size": 12})
    )
    run_alone(spec)
    text = json.loads((spec.run_path / "abort.json").read_text())["text"]
    assert text.startswith("dataset.train: ")
    assert "/proc/nowhere cannot be used as a cache" in text
    assert newest_checkpoint(spec.run_path) is None


def test_held_out_images_are_evaluated_and_not_trained_on(make_content, tmp_path):
    write_stripes(tmp_path / "val.beton", 20, seed=2)
    content = make_content(
        dataset={"val": str(tmp_path / "val.beton"), "held_out": {"num_images": 60}},
        training={"global_batch_size": 96, "micro_batch_size": 96, "drop_last": False},
        resources={"num_workers": 1, "cpus_per_worker": 1},
    )
    spec = parse_spec(content)
    # Val is not read.
    Path(spec.dataset.val).unlink()
    data = WorkerData(spec, World(0, 1, CPU, 1), print)
    trained = [set(indices_of(data.train_batches(epoch, 0))) for epoch in range(3)]
    evaluated = indices_of(data.val_batches(np.arange(60)))
    data.close()

    assert len(evaluated) == len(set(evaluated)) == 60
    assert all(len(epoch) == 256 - 60 and epoch.isdisjoint(evaluated) for epoch in trained)
    labels = open_beton(Path(spec.dataset.train)).labels
    assert np.bincount(labels[evaluated]).tolist() == [15] * 4


def test_held_out_images_do_not_replace_undecodable_ones(make_content, tmp_path):
    train_path = converted_folder(tmp_path)
    content = make_content(
        dataset={
            "train": str(train_path),
            "max_undecodable": 1,
            "held_out": {"num_images": 120},
        },
        augmentation={"crop": "random_resized", "size": 12},
        training={"global_batch_size": 4, "micro_batch_size": 4},
    )
    spec = parse_spec({**content, "resources": {"num_workers": 1, "cpus_per_worker": 1}})
    file = open_beton(train_path)
    held_out = split_held_out(file.labels, sample_keys(file), 120, 0).held_out
    damaged = next(index for index in range(128) if index not in held_out)
    damage_sample(train_path, damaged)
    data = WorkerData(spec, World(0, 1, CPU, 1), print)
    # Eight images are left: nearly all of sixty random substitutes would be held-out ones.
    trained = [index for epoch in range(60) for index in indices_of(data.train_batches(epoch, 0))]
    data.close()

    assert damaged not in trained
    assert set(trained).isdisjoint(held_out)


def test_run_with_held_out_images_evaluates_them_and_not_val(make_content):
    spec = parse_spec(make_content(dataset={"held_out": {"num_images": 60}}))
    run_alone(spec)

    events = read_events(spec.run_path / JOURNAL_NAME)
    names = {name for event in events if event.kind == "evaluation" for name in event.values}
    assert {"held_out/top1", "held_out/top5", "held_out/loss", "held_out/ece"} <= names
    assert not any(name.startswith("val/") for name in names)


def indices_of(batches):
    return [int(index) for batch in batches for index in batch.indices]
