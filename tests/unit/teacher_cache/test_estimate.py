"""What plans say about the cache, against sums by hand."""

import pytest
from support.stored_logits import store_rows

from service.spec.loading import parse_job
from service.teacher_cache import estimate
from service.teacher_cache.demand import Runs, shared_logits
from service.teacher_cache.estimate import cache_lines, concurrent_lines, labels_of

ROW_BYTES, NUM_IMAGES = 4 + 2 * 4, 256
RATE = 1e6
IMAGE_FLOPS = 50_000
# A pass over the images takes 12.8 seconds.
SCHEDULE = {"schedule": {"num_epochs": 10, "milestones": []}}


@pytest.fixture
def make(make_content, teacher, monkeypatch):
    """A function that makes runs with this teacher.cache; this machine computes RATE FLOPs/s."""
    monkeypatch.setattr(estimate, "matrix_flops_per_s", lambda _: RATE)

    def make(cache, num_runs=1, **sections):
        network = {**teacher, "cache": cache}
        return Runs(parse_job(make_content(teacher=network, **{**SCHEDULE, **sections})), num_runs)

    return make


def lines_of(*runs, **options):
    return list(cache_lines(runs, lambda _: IMAGE_FLOPS, **options))


def store(runs, num_rows):
    """Write rows of the first epoch."""
    part = shared_logits([runs.job])[0]
    store_rows(part.path, part.key, 0, num_rows, (NUM_IMAGES, ROW_BYTES))


def test_a_run_saves_the_epochs_that_it_repeats(make, tmp_path):
    what, saved = lines_of(make({"epochs": 4}))
    path = tmp_path / "runs" / ".teacher_cache"
    kilobytes = 4 * NUM_IMAGES * ROW_BYTES / 1000
    stored = "nothing is stored yet"
    assert what == f"teacher.cache: logits of 4 epochs, {kilobytes:.2f} kB, in {path}; {stored}"
    # 6 of 10 epochs, 76.8 s; all are 128 s.
    assert saved.startswith(
        "it saves 6 of 10 passes of the teacher over the images in this run, 1.3 minutes, and up "
        "to all in later ones, 2.1 minutes, of one device with this machine's 1e-06 TFLOP/s"
    )


def test_what_is_stored_is_saved_too(make):
    runs = make({"epochs": 4})
    store(runs, 128)
    what, saved = lines_of(runs)
    assert what.endswith("; 0.5 stored, 1.54 kB, 3.5 to compute")
    assert saved.startswith("it saves 6.5 of 10 passes")
    once = make({"epochs": 1})
    store(once, NUM_IMAGES)
    what, saved = lines_of(once)
    assert what.endswith("; 1 stored, 3.07 kB, 0 to compute")
    assert saved.startswith("it saves 10 of 10 passes")
    assert "later" not in saved


def test_many_runs_pay_once_for_each_key(make):
    runs = [make({"epochs": 2}, seed=seed, name=f"run-{seed}") for seed in (0, 0, 0, 1)]
    store(runs[0], NUM_IMAGES)
    what, of_first, of_second, saved, advice = lines_of(*runs, are_concurrent=True)
    assert "logits of 4 epochs, " in what
    assert what.endswith("; 1 stored, 3.07 kB, 3 to compute")
    assert of_first.startswith("  seed 0: 2 epochs, 6.14 kB; 1 stored")
    assert of_second.startswith("  seed 1: 2 epochs, 6.14 kB; nothing is stored yet")
    # 40 passes of 12.8 s but 3: 474 s.
    assert saved.startswith("it saves 37 of 40 passes of the teacher over the images in all runs")
    assert ", 7.9 minutes, of one device" in saved
    assert "jobs/cache_teacher.py" in advice
    assert lines_of(*runs) == [what, of_first, of_second, saved]


def test_runs_that_are_expected_count_as_often_as_there_are(make):
    *_, saved = lines_of(make({"epochs": 2}, num_runs=12.5))
    assert saved.startswith("it saves 123 of 125 passes")
    # 1 trial for each 5 of the seeds it is chosen from: the other seeds' logits cost it nothing.
    seeds = [make({}, num_runs=0.2, seed=seed) for seed in range(5)]
    *_, saved = lines_of(*seeds)
    assert saved.startswith("it saves 0 of 10 passes")


def test_only_what_is_missing_makes_runs_wait_for_each_other(make):
    runs = make({"epochs": 1})
    assert len(concurrent_lines([runs])) == 1
    store(runs, NUM_IMAGES)
    assert concurrent_lines([runs]) == []
    assert "cache_teacher" not in "\n".join(lines_of(runs, are_concurrent=True))


def test_labels_name_what_differs(make):
    padded = {"augmentation": {"padding": 2}}
    jobs = [make({}).job, make({}, seed=1).job, make({}, seed=1, **padded).job]
    assert labels_of(shared_logits(jobs)) == [
        "seed 0, augmentation.padding 1",
        "seed 1, augmentation.padding 1",
        "seed 1, augmentation.padding 2",
    ]
    compiled = [make({}).job, make({}, training={"compile": "off"}).job]
    assert labels_of(shared_logits(compiled)) == ["training.compile auto", "training.compile off"]
    assert labels_of(shared_logits(compiled[:1])) == [""]


def test_a_limit_and_a_disk_without_room_are_warnings(make, monkeypatch):
    needed = 10 * NUM_IMAGES * ROW_BYTES
    (limit,) = [x for x in lines_of(make({"limit_bytes": needed - 1})) if "warning" in x]
    assert limit.startswith("warning: teacher.cache.limit_bytes is 30.72 kB: not all")
    assert not [x for x in lines_of(make({"limit_bytes": needed})) if "warning" in x]

    class Full:
        free = needed - 1

    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda _: Full)
    (disk,) = [x for x in lines_of(make({})) if "warning" in x]
    assert disk.endswith("has 30.72 kB free: not all logits will be stored")


def test_nothing_is_said_without_a_cache(make):
    runs = make({}, losses={"ce": {}})
    assert lines_of(runs, are_concurrent=True) == []
    assert concurrent_lines([runs]) == []
