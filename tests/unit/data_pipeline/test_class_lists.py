"""A source with the classes of another dataset, or with some of its own."""

import json
from pathlib import Path

import pytest
from support.layout_makers import WNIDS, convert_to, refusal, write_image

from data_pipeline.sources import open_source
from data_pipeline.sources.class_lists import with_classes


@pytest.mark.parametrize("form", ["lines", "JSON object"])
def test_some_classes_only(tiny, tmp_path, form):
    chosen = tmp_path / ("some.txt" if form == "lines" else "Labels.json")
    names = [WNIDS[2], WNIDS[0]]
    text = "".join(f"{name} a name\n" for name in names)
    chosen.write_text(text if form == "lines" else json.dumps(dict.fromkeys(names, "a name")))
    for split in ("train", "val"):
        path = tmp_path / f"{split}.beton"
        found = convert_to(path, tiny / split, "--only-classes", chosen)
        assert found == ([0, 0, 1, 1], [WNIDS[0], WNIDS[2]])


def test_images_of_other_classes_are_counted(tiny, tmp_path, capsys):
    chosen = tmp_path / "some.txt"
    chosen.write_text(f"{WNIDS[0]}\n{WNIDS[2]}\n")
    convert_to(tmp_path / "train.beton", tiny / "train", "--only-classes", chosen)
    assert "2 of 6 images are of classes that are left out" in capsys.readouterr().out


def test_numbers_are_indices_into_the_classes_of_another_dataset(tiny, tmp_path):
    convert_to(tmp_path / "train.beton", tiny / "train")
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("201201"))
    options = ("--labels", labels, "--classes", tmp_path / "train.beton")
    found = convert_to(tmp_path / "val.beton", tiny / "val/images", *options)
    assert found == ([0, 0, 1, 1, 2, 2], WNIDS)
    source = open_source(tiny / "val/images", labels=labels)
    assert source.labels.tolist() == [2, 0, 1, 2, 0, 1]


def test_names_are_matched_and_a_class_may_have_no_image(tiny, tmp_path):
    names = ["n99999999", WNIDS[1], WNIDS[0], WNIDS[2]]
    given = tmp_path / "names.json"
    given.write_text(json.dumps(names))
    found = convert_to(tmp_path / "train.beton", tiny / "train", "--classes", given)
    assert found == ([1, 1, 2, 2, 3, 3], names)


@pytest.mark.parametrize("option", ["--classes", "--only-classes"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "has no names"),
        ("n01443537\nn01443537", "has the class n01443537 twice"),
        ("n01443538\nn01629819\nn01641577", " has no class n0144353"),
        ('{"classes": 5}', "has no names"),
        ("[[[", "is not JSON"),
    ],
)
def test_lists_that_do_not_fit(tiny, tmp_path, capsys, option, text, expected):
    path = tmp_path / ("names.json" if text[:1] in ("{", "[") else "names.txt")
    path.write_text(text)
    line = refusal(capsys, tmp_path, tiny / "train", option, path)
    assert expected in line
    assert str(path) in line


def test_more_numbers_than_classes_are_refused(tiny, tmp_path, capsys):
    labels, names = tmp_path / "labels.txt", tmp_path / "names.txt"
    labels.write_text("\n".join("201203"))
    names.write_text("\n".join(WNIDS))
    options = ("--labels", labels, "--classes", names)
    assert "has 3 classes" in refusal(capsys, tmp_path, tiny / "val/images", *options)


NAMES = ["great gray owl", "great white shark", "na\u0308ive caf\u00e9\u00a0au lait"]


@pytest.mark.parametrize("option", ["--classes", "--only-classes"])
@pytest.mark.parametrize(
    "text",
    ["{}\n{}\n{}\n", "\ufeff{}\r\n{}\r\n{}", "{},1\n{},2\n{},3", "{}\tx y\n{}\tx\n{}\tz"],
)
def test_names_with_spaces_in_any_script(tmp_path, option, text):
    for seed, name in enumerate(NAMES):
        write_image(tmp_path / "source" / name / "0.jpg", seed)
    given = tmp_path / "names.txt"
    given.write_text(text.format(*NAMES), encoding="utf-8", newline="")
    found = convert_to(tmp_path / "out.beton", tmp_path / "source", option, given)
    assert found == ([0, 1, 2], NAMES)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_folders_of_numbers_are_indices_whatever_their_width(tmp_path, width):
    names = [f"n{label:08}" for label in range(12)]
    given = tmp_path / "names.txt"
    given.write_text("".join(f"{name} some words\n" for name in names))
    for label in range(12):
        write_image(tmp_path / "source" / f"{label:0{width}}" / f"{label}.jpg", label)
    assert convert_to(tmp_path / "out.beton", tmp_path / "source", "--classes", given)[1] == names
    source = with_classes(open_source(tmp_path / "source"), names, given)
    stems = [int(Path(source.read(i).name).stem) for i in range(12)]
    assert source.labels.tolist() == stems


def test_classes_without_images_are_printed(tiny, tmp_path, capsys):
    given = tmp_path / "names.txt"
    given.write_text("\n".join(["n99999999", *WNIDS]))
    convert_to(tmp_path / "out.beton", tiny / "train", "--classes", given)
    assert f"1 classes of {given} have no image: n99999999" in capsys.readouterr().out


@pytest.mark.parametrize("numbers", [("1", "01"), ("1", "3")])
def test_numbers_that_are_no_indices_are_refused(tmp_path, capsys, numbers):
    given = tmp_path / "names.txt"
    given.write_text("\n".join(WNIDS))
    for name in numbers:
        write_image(tmp_path / "source" / name / "0.jpg", 0)
    line = refusal(capsys, tmp_path, tmp_path / "source", "--classes", given)
    assert "twice" in line if numbers[1] == "01" else "has the label 3" in line
