"""Why a cache has nothing for a run: the fields of its spec that differ from those of the nearest
entry.
"""

import json
import shutil

import pytest

from service.teacher_cache.differences import differences, miss_text
from service.teacher_cache.entry import CacheEntry


def store(path, key):
    CacheEntry(path, key, None).close()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seed": 1}, ("seed", "0", "1")),
        ({"size": 17}, ("augmentation.size", "16", "17")),
        ({"fingerprint": "0" * 64}, ("dataset.train", "ffffffff", "00000000")),
        (
            {"execution": {"precision": "bfloat16"}},
            ("the teacher's precision", "float32", "bfloat16"),
        ),
        ({"augmentation": {"padding": 2}}, ("augmentation.padding", "1", "2")),
        (
            {"dataset": {"held_out": {"num_images": 40}}},
            ("dataset.held_out", "none", '{"num_images": 40, "seed": 0}'),
        ),
        ({"teacher": {"size": 24}}, ("teacher.size", "none", "24")),
        ({"evaluation": {"crop_size": 15}}, ("evaluation.crop_size", "16", "15")),
    ],
    ids=str,
)
def test_a_difference_is_the_field_of_the_spec_and_its_values(make_key, change, expected):
    assert differences(make_key(), make_key(**change)) == [expected]


def test_fields_of_other_networks_have_their_own_paths(make_key, teacher):
    others = [{"others": [{**teacher, "weight": weight}]} for weight in (1.0, 2.0)]
    (found,) = differences(*(make_key(teacher=other) for other in others))
    assert found == ("teacher.others.0.weight", "1.0", "2.0")


def test_the_nearest_entry_is_what_a_miss_is_compared_with(make_key, tmp_path):
    path = tmp_path / "cache"
    assert miss_text(path, make_key()) is None
    store(path, make_key(seed=1, augmentation={"padding": 2}))
    store(path, make_key(augmentation={"padding": 3}))
    text = miss_text(path, make_key())
    assert text.endswith("the most similar ones that are stored have augmentation.padding 3 "
                         "instead of 1")  # fmt: skip
    assert "\n" not in text
    # What is there is no miss, whatever else is there.
    store(path, make_key())
    assert miss_text(path, make_key()) is None


def test_other_images_with_another_teacher_are_no_surprise(make_key, tmp_path):
    other = make_key(fingerprint="0" * 64)
    other["weights"] = {"teacher": "1" * 64}
    store(tmp_path, other)
    assert miss_text(tmp_path, make_key()) is None
    # Another file of the same network, for the same images, may be one.
    other["dataset"] = make_key()["dataset"]
    store(tmp_path, other)
    assert "teacher.weights 11111111 instead of " in miss_text(tmp_path, make_key())


def test_many_differences_are_counted(make_key, tmp_path):
    store(tmp_path, make_key())
    changed = {"padding": 0, "flip_probability": 0.1, "erasing": {}}
    text = miss_text(tmp_path, make_key(seed=7, augmentation=changed))
    assert "seed 0 instead of 7, " in text
    assert text.endswith(" and 1 more")


@pytest.mark.parametrize("content", ["[]", "{", '{"teacher": 3}', '{"weights": [{"x": []}]}'])
def test_entries_that_others_have_damaged_are_no_error(make_key, tmp_path, content):
    store(tmp_path, make_key(seed=1))
    (key_path,) = tmp_path.glob("*/key.json")
    key_path.write_text(content)
    assert miss_text(tmp_path, make_key()) is None


def test_names_and_values_cannot_break_the_line(make_key, tmp_path):
    key = make_key(seed=1)
    key["a\nb"] = "\x1b[31mred\n" + "x" * 100
    store(tmp_path, key)
    text = miss_text(tmp_path, make_key())
    assert text.isprintable()
    assert "x" * 41 not in text


def test_only_reading(make_key, tmp_path):
    store(tmp_path, make_key(seed=1))
    (entry,) = [path.parent for path in tmp_path.glob("*/key.json")]
    before = json.loads((entry / "key.json").read_text())
    names = sorted(path.name for path in tmp_path.rglob("*"))
    miss_text(tmp_path, make_key())
    assert sorted(path.name for path in tmp_path.rglob("*")) == names
    assert json.loads((entry / "key.json").read_text()) == before
    shutil.rmtree(entry)
    assert miss_text(tmp_path, make_key()) is None
