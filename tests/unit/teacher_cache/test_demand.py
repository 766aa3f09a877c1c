"""Which logits runs share, and how much of them a cache has, against what was written into it."""

import numpy as np
import pytest
from support.stored_logits import store_rows

from service.spec.loading import parse_job
from service.teacher_cache.demand import shared_logits

ROW_BYTES, NUM_IMAGES = 4 + 2 * 4, 256
FORM = {"teacher_form": "folded", "cast_teacher": "False"}


@pytest.fixture
def make(make_content, teacher):
    """A function that makes a checked job with this teacher.cache."""

    def make(cache=None, **sections):
        network = {**teacher, "cache": cache or {}, **sections.pop("teacher", {})}
        return parse_job(make_content(teacher=network, **sections))

    return make


def store(part, epoch, num_rows, **execution):
    """Write the first rows of an epoch, as a run whose teacher has this form."""
    key = {**part.key, "execution": {**part.key["execution"], **FORM, **execution}}
    store_rows(part.path, key, epoch, num_rows, (NUM_IMAGES, ROW_BYTES))


def test_runs_share_what_has_one_key_and_each_epoch_is_needed_once(make):
    sections = {"schedule": {"num_epochs": 5, "milestones": []}}
    jobs = [
        make({"epochs": 2}, name="a", **sections),
        make({"epochs": 3}, name="b", losses={"kd": {}}, **sections),
        make({"epochs": 2}, name="c", seed=1, **sections),
        make({"epochs": 2}, name="d", losses={"ce": {}}, **sections),
    ]
    first, second = shared_logits(jobs)
    found = [[(f.job.spec.name, f.epoch) for f in part.epochs.values()] for part in (first, second)]
    assert found == [[("a", 0), ("a", 1), ("b", 2)], [("c", 0), ("c", 1)]]
    assert first.num_bytes == 3 * NUM_IMAGES * ROW_BYTES


def test_epochs_of_another_size_have_another_key(make):
    augmentation = {"crop": "random_resized", "size_stages": [{"from_epoch": 2, "size": 20}]}
    schedule = {"num_epochs": 6, "milestones": []}
    job = make({"epochs": 3}, augmentation=augmentation, schedule=schedule)
    small, large = shared_logits([job])
    assert [part.key["size"] for part in (small, large)] == [16, 20]
    # By the epoch whose draws they have, the first epoch with them.
    assert {draw: first.epoch for draw, first in small.epochs.items()} == {0: 0, 1: 1}
    assert {draw: first.epoch for draw, first in large.epochs.items()} == {2: 2, 0: 3, 1: 4}


@pytest.mark.parametrize("changes", [{"compile": "off"}, {"precision": "bfloat16"}], ids=str)
def test_runs_whose_teacher_may_have_another_form_do_not_count_on_each_other(make, changes):
    assert len(shared_logits([make(), make(training=changes)])) == 2


def test_what_is_stored_is_counted_by_rows(make):
    (part,) = shared_logits([make({"epochs": 2})])
    assert part.num_stored_epochs() == 0
    assert not part.path.exists()
    store(part, 0, NUM_IMAGES)
    assert part.num_stored_epochs() == 1
    store(part, 1, 64)
    assert part.num_stored_epochs() == 1.25
    # Other epochs than those of the run do not count.
    store(part, 7, NUM_IMAGES)
    assert part.num_stored_epochs() == 1.25
    names = sorted(path.name for path in part.path.rglob("*"))
    part.num_stored_epochs()
    assert sorted(path.name for path in part.path.rglob("*")) == names


def test_a_sample_of_many_rows_says_how_much_is_there(make, monkeypatch):
    monkeypatch.setattr("service.teacher_cache.demand.NUM_SAMPLED", 2 * 16)
    (part,) = shared_logits([make({"epochs": 2})])
    store(part, 0, NUM_IMAGES // 2)
    assert part.num_stored_epochs() == pytest.approx(0.5, abs=1 / 16)
    store(part, 0, NUM_IMAGES)
    assert part.num_stored_epochs() == 1


def test_damaged_rows_are_not_stored(make):
    (part,) = shared_logits([make({"epochs": 1})])
    store(part, 0, NUM_IMAGES)
    (path,) = part.path.glob("*/epoch-*")
    rows = np.fromfile(path, np.uint8).reshape(NUM_IMAGES, ROW_BYTES)
    rows[::2, 5] ^= 1
    rows.tofile(path)
    assert part.num_stored_epochs() == 0.5


def test_logits_of_another_precision_are_of_no_use_unless_auto_may_find_it(make):
    (named,) = shared_logits([make({"epochs": 1})])
    (auto,) = shared_logits([make({"epochs": 1}, training={"precision": "auto"})])
    store(named, 0, NUM_IMAGES, precision="bfloat16")
    assert (named.num_stored_epochs(), auto.num_stored_epochs()) == (0, 1)
    store(named, 0, 64)
    assert (named.num_stored_epochs(), auto.num_stored_epochs()) == (0.25, 1)


def test_images_that_no_epoch_trains_on_need_not_be_stored(make):
    training = {"global_batch_size": 96, "micro_batch_size": 16, "drop_last": True}
    (part,) = shared_logits([make({"epochs": 1}, training=training)])
    store(part, 0, 192)
    assert part.num_stored_epochs() == 1


def test_weights_that_are_not_fetched_yet_may_be_those_that_are_stored(make):
    weights = {"weights": {"source": "torchvision:IMAGENET1K_V1"}}
    network = {"model": "resnet18", "classes": [3, 1, 4, 5], **weights}
    (part,) = shared_logits([make({"epochs": 1}, teacher=network)])
    assert not part.has_digests
    fetched = {**part.key, "weights": {"teacher": "0" * 64}}
    store_rows(part.path, fetched, 0, NUM_IMAGES, (NUM_IMAGES, ROW_BYTES))
    assert part.num_stored_epochs() == 1


def test_a_cache_that_cannot_be_read_has_nothing(make, tmp_path):
    (tmp_path / "file").touch()
    (part,) = shared_logits([make({"epochs": 1})])
    part.path = tmp_path / "file" / "cache"
    assert part.num_stored_epochs() == 0
    (part,) = shared_logits([make({"epochs": 1})])
    store(part, 0, NUM_IMAGES)
    (path,) = part.path.glob("*/epoch-*")
    path.unlink()
    path.symlink_to("/dev/zero")
    assert part.num_stored_epochs() == 0
