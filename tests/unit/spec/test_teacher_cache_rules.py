"""Rules of teacher.cache: which losses need all logits, room, and what identifies a run."""

from pathlib import Path

import pytest

from service.spec.errors import BadInputError
from service.spec.identity import fixed_differences
from service.spec.loading import parse_spec
from service.teacher_cache.entry import CacheEntry, NoRoomError
from service.teacher_cache.key import digest_of

NUM_IMAGES, NUM_CLASSES = 256, 4
TOP_2 = {"keep": {"top_k": 2}}


@pytest.fixture
def make(make_content, teacher):
    """A function that checks a spec with this teacher.cache."""

    def make(cache, **sections):
        return parse_spec(make_content(teacher={**teacher, "cache": cache}, **sections))

    return make


def problems_of(make, cache, **sections):
    with pytest.raises(BadInputError) as caught:
        make(cache, **sections)
    return {problem.where: str(problem) for problem in caught.value.problems}


NORM_RULE = {"kind": "dynamic", "sharpness": "norm"}


@pytest.mark.parametrize(
    ("losses", "name"),
    [
        ({"kd": {"standardize": True}}, "kd"),
        ({"kd": {"temperature": {"kind": "teacher_max"}}}, "kd"),
        ({"kd": {"temperature": NORM_RULE}}, "kd"),
        ({"dtkd": {"sharpness": "norm"}}, "dtkd"),
        ({"dtkd": {"sharpness": "logsumexp"}}, "dtkd"),
        *[({name: {}}, name) for name in ("dist", "dkd", "ls", "normkd", "nkd", "rld", "gkl")],
        *[({name: {}}, name) for name in ("tckd", "nckd", "wkd", "mlkd")],
        ({"ldrld": {"top_k": 2}}, "ldrld"),
        ({"abkd": {"standardize": True}}, "abkd"),
    ],
    ids=str,
)
def test_losses_that_need_all_logits_say_so(make, losses, name):
    sections = {"losses": {"ce": {}, **losses}}
    if name == "mlkd":
        sections["augmentation"] = {"strong": {}}
    found = problems_of(make, TOP_2, **sections)
    assert f"losses.{name} needs all" in found["teacher.cache.keep"]
    assert make({}, **sections).teacher_cache.keep == "float16"


@pytest.mark.parametrize(
    "losses",
    [
        None,
        {"kd": {"temperature": {"kind": "dynamic"}}},
        *[{name: {}} for name in ("kd", "dtkd", "ctkd", "ttm", "wttm", "skew", "abkd")],
    ],
    ids=str,
)
def test_losses_of_predictions_and_of_the_largest_logit_take_the_top_ones(make, losses):
    assert make(TOP_2, losses=losses).teacher_cache.keep.top_k == 2


def test_a_limit_has_room_for_an_epoch_or_for_all_that_repeat(make):
    row_bytes = 4 + 2 * NUM_CLASSES
    for cache, num_epochs in (({}, 1), ({"epochs": 2}, 2)):
        needed = num_epochs * NUM_IMAGES * row_bytes
        assert make({**cache, "limit_bytes": needed})
        found = problems_of(make, {**cache, "limit_bytes": needed - 1})
        assert f"have {needed:,} bytes" in found["teacher.cache.limit_bytes"]
    held_out = {"held_out": {"num_images": 56}}
    assert make({"limit_bytes": 200 * row_bytes}, dataset=held_out)
    # Two views of an image, where a loss compares the teacher's strong view.
    both = {"losses": {"crld": {}}, "augmentation": {"strong": {}}}
    found = problems_of(make, {"limit_bytes": NUM_IMAGES * row_bytes}, **both)
    assert f"{NUM_IMAGES * (4 + 4 * NUM_CLASSES):,} bytes" in found["teacher.cache.limit_bytes"]


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
@pytest.mark.parametrize("stages", [(), (2,), (1, 4), (5,)], ids=str)
def test_with_sizes_that_change_a_limit_has_room_for_what_one_size_repeats(
    make, tmp_path, epochs, stages
):
    """A run with the smallest limit reads all that it repeats at the same size; with less, not."""
    sizes = [{"from_epoch": first, "size": 17 + n} for n, first in enumerate(stages)]
    sections = {
        "schedule": {"num_epochs": 7, "milestones": []},
        "augmentation": {"crop": "random_resized", "size_stages": sizes},
    }
    of_epoch = NUM_IMAGES * (4 + 2 * NUM_CLASSES)
    for count in range(1, epochs + 1):
        path, limit_bytes = str(tmp_path / str(count)), count * of_epoch
        fits = all_repeats_fit(make({"epochs": epochs, "path": path}, **sections), limit_bytes)
        cache = {"epochs": epochs, "limit_bytes": limit_bytes}
        if fits:
            assert make(cache, **sections)
            return
        assert list(problems_of(make, cache, **sections)) == ["teacher.cache.limit_bytes"]
    pytest.fail("all epochs have no room for one size")


def all_repeats_fit(spec, limit_bytes):
    """Whether a run finds a file for each epoch in a cache of this size, whose logits it has seen
    in the same size.
    """
    row_bytes, entry, last = 4 + 2 * NUM_CLASSES, None, None
    fitting, seen = True, set()
    for epoch in range(spec.schedule.num_epochs):
        size = spec.augmentation.size_at(epoch)
        if size != last:
            if entry is not None:
                entry.close()
            entry, last = CacheEntry(spec.teacher_cache_path, {"size": size}, limit_bytes), size
        try:
            path = spec.teacher_cache_path / digest_of({"size": size})
            number = epoch % spec.teacher_cache.epochs
            is_there = (path / f"epoch-{number:04d}.logits").exists()
            fitting &= is_there == ((size, number) in seen)
            entry.epoch_file(number, NUM_IMAGES, row_bytes).close()
            seen.add((size, number))
        except NoRoomError:
            fitting = False
    entry.close()
    return fitting


@pytest.mark.parametrize(
    ("cache", "where", "text"),
    [
        ({"epochs": 3}, "teacher.cache.epochs", "is 3, but schedule.num_epochs is 2"),
        ({"keep": {"top_k": 4}}, "teacher.cache.keep.top_k", "dataset.num_classes is 4"),
        ({"keep": "float8"}, "teacher.cache.keep", 'or {"top_k": ...}'),
        ({"max_error": 0}, "teacher.cache.max_error", "greater than 0"),
        ({"path": ""}, "teacher.cache.path", "is ''; give a folder, . for the current one"),
        ({"path": "s3://b/x"}, "teacher.cache.path", "give a folder of a file system"),
        ({"folder": "x"}, "teacher.cache.folder", "is not a field"),
    ],
    ids=str,
)
def test_mistakes_are_named(make, cache, where, text):
    assert text in problems_of(make, cache)[where]


def test_the_path_is_absolute_and_by_default_in_the_storage_path(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert make({}).teacher_cache_path == tmp_path / "runs" / ".teacher_cache"
    assert make({"path": "logits"}).teacher_cache_path == tmp_path / "logits"
    Path("file").touch()
    assert "is a file" in problems_of(make, {"path": "file/logits"})["teacher.cache.path"]


@pytest.mark.parametrize(
    ("old", "new", "differing"),
    [
        ({}, {"path": "elsewhere", "limit_bytes": 10**6}, []),
        ({}, {"keep": {"top_k": 2}}, ["teacher.cache.keep"]),
        ({}, {"max_error": 0.1}, ["teacher.cache.max_error"]),
        ({}, {"epochs": 2}, ["teacher.cache.epochs"]),
        (None, {}, ["teacher.cache"]),
    ],
    ids=str,
)
def test_only_where_logits_are_and_how_many_bytes_they_take_may_change(make, old, new, differing):
    specs = make(old), make(new)
    assert fixed_differences(*specs) == differing
    assert (specs[0].content_hash() == specs[1].content_hash()) == (differing == [])


def test_epochs_repeat_the_draws_of_the_first_ones(make):
    schedule = {"num_epochs": 7, "milestones": []}
    spec = make({"epochs": 3}, schedule=schedule)
    assert [spec.draw_epoch(epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert [make({}, schedule=schedule).draw_epoch(epoch) for epoch in (0, 3, 6)] == [0, 3, 6]
    # Without a loss that needs the teacher there is nothing to store, and nothing to repeat.
    alone = make({"epochs": 3}, schedule=schedule, losses={"ce": {}})
    assert alone.draw_epoch(5) == 5
