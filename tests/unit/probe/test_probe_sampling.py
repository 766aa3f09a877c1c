"""What a probe runs the teacher on: the run's own images, and variants of them."""

import numpy as np
import pytest
import torch
from support.training_runs import CPU

from data_pipeline.batches import center_crop
from data_pipeline.beton import open_beton
from data_pipeline.loader import ImageLoader
from jobs.distill import main
from service.distillation.pixels import FrozenTeacher
from service.probe import sampling
from service.probe.sampling import TeacherSampler
from service.probe.teacher import other_normalizations
from service.run.execution import Execution
from service.spec.data_sections import Normalization
from service.spec.loading import parse_job, parse_spec
from service.training.data import WorkerData
from service.training.distributed import World
from service.training.factory import build_teacher


@pytest.fixture
def spec(make_content, teacher):
    augmentation = {"color_jitter": {"brightness": 0.4}, "flip_probability": 0.5}
    return parse_spec(make_content(teacher=teacher, augmentation=augmentation))


def test_training_crops_are_the_first_of_the_run(spec):
    network = build_teacher(spec, CPU, Execution.plain(spec))
    sample = TeacherSampler(spec, network, CPU).sample({})
    data = WorkerData(spec, World(0, 1, CPU, 1), print)
    batch = next(iter(data.train_batches(0, 0)))
    data.close()
    count = len(batch.labels)
    assert sample.train.labels[:count].equal(batch.labels)
    torch.testing.assert_close(sample.train.logits[:count], network(batch.images).double())
    assert not spec.run_path.exists()


def test_every_image_of_val_is_evaluated_once_and_normalized_anew(spec, data_folder):
    network = build_teacher(spec, CPU, Execution.plain(spec))
    other = Normalization(mean=(0, 0, 0), std=(1, 1, 1))
    sample = TeacherSampler(spec, network, CPU).sample({"other": other})
    file = open_beton(data_folder / "val.beton")
    generator = np.random.default_rng(spec.seed)
    chosen = generator.permutation(file.num_samples)
    with ImageLoader(file, seed=0, num_threads=1) as loader:
        (batch,) = loader.batches([chosen], center_crop(16, 16))
    assert sample.evaluated.labels.equal(batch.labels)
    torch.testing.assert_close(sample.evaluated.logits, network(batch.images).double())
    anew = FrozenTeacher(network.model, other)
    own, others = sample.renormalized
    count = len(batch.labels)
    assert own.labels[:count].equal(batch.labels)
    torch.testing.assert_close(own.logits[:count], sample.evaluated.logits)
    torch.testing.assert_close(others["other"][:count], anew(batch.images).double())
    train = open_beton(data_folder / "train.beton")
    places = generator.permutation(train.num_samples)
    with ImageLoader(train, seed=0, num_threads=1) as loader:
        (batch,) = loader.batches([places], center_crop(16, 16))
    assert own.labels[count:].equal(batch.labels)
    torch.testing.assert_close(others["other"][count:], anew(batch.images).double())


def test_training_images_without_labels_are_not_normalized_anew(make_content, teacher):
    spec = parse_spec(make_content(teacher=teacher, dataset={"unlabeled": True}))
    other = Normalization(mean=(0, 0, 0), std=(1, 1, 1))
    teacher = build_teacher(spec, CPU, Execution.plain(spec))
    sample = TeacherSampler(spec, teacher, CPU).sample({"other": other})
    assert sample.renormalized.own.labels.equal(sample.evaluated.labels)


def test_pairs_are_blended_or_cut(spec):
    """The middle one of five images has no other."""
    images = (torch.arange(5)[:, None, None, None] * 10).expand(5, 2, 2, 3).to(torch.uint8)
    batch = sampling.Batch(images, torch.arange(5), np.arange(5))

    def classify(pixels):
        return pixels[:, 0, :, 0].double()

    pairs = TeacherSampler(spec, classify, CPU)._pairs([batch])
    assert pairs.blended.tolist() == [[20, 20], [20, 20], [20, 20]]
    assert pairs.cut.tolist() == [[0, 40], [10, 30], [20, 20]]
    assert pairs.labels.tolist() == [[0, 4], [1, 3], [2, 2]]


def test_each_part_ends_when_its_time_is_up(spec, monkeypatch):
    for limit in ("VAL", "RENORMALIZED", "PAIRS", "TRAIN"):
        monkeypatch.setattr(sampling, f"{limit}_LIMIT_S", 0.0)
    teacher = build_teacher(spec, CPU, Execution.plain(spec))
    sample = TeacherSampler(spec, teacher, CPU).sample({"own": Normalization()})
    size = sampling.BATCH_SIZE
    assert len(sample.evaluated.labels) == len(sample.train.labels) == size
    assert len(sample.renormalized.others["own"]) == size


def test_normalizations_that_are_tried_differ_from_the_teachers(make_content, teacher):
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    job = parse_job(make_content(teacher={**teacher, "normalization": half}))
    assert list(other_normalizations(job)) == ["the dataset's", "pixels from 0 to 1"]


@pytest.mark.parametrize("unlabeled", [False, True])
def test_the_probe_of_an_untrained_teacher_warns_and_is_done(
    write_spec, teacher, capsys, tmp_path, unlabeled
):
    path = write_spec(teacher=teacher, dataset={"unlabeled": unlabeled})
    assert main([str(path), "--probe"]) == 0
    output = capsys.readouterr().out
    assert "on 101 images of val: top-1 " in output
    assert "warning: teacher.weights: are no better than chance" in output
    assert "other normalizations, none of which is better on " in output
    assert ("agrees with the labels of 256 training crops" in output) != unlabeled
    assert not (tmp_path / "runs").exists()


def test_a_spec_without_a_teacher_is_bad_input(write_spec, capsys):
    assert main([str(write_spec()), "--probe"]) == 2
    assert "teacher: is absent; add the teacher" in capsys.readouterr().err


def test_weights_that_do_not_fit_are_bad_input(write_spec, teacher, capsys):
    path = write_spec(teacher={**teacher, "model": "cifar:resnet14"})
    assert main([str(path), "--probe"]) == 2
    assert "teacher.weights" in capsys.readouterr().err


def test_a_mean_of_teachers_is_probed_without_other_normalizations(write_spec, teacher, capsys):
    others = [{**teacher, "normalization": {"mean": [0.5] * 3, "std": [0.5] * 3}}]
    assert main([str(write_spec(teacher={**teacher, "others": others})), "--probe"]) == 0
    output = capsys.readouterr().out
    assert "on 101 images of val: top-1 " in output
    assert "teacher.normalization: is not" not in output
