"""Datasets in the folders in which they are distributed, and folders that are not classes."""

import io
import json
import shutil
import tarfile

import pytest
from support.image_makers import jpeg_bytes, smooth_image

from data_pipeline.beton import open_beton
from data_pipeline.manifest import read_manifest
from data_pipeline.sources import SourceError, open_source
from jobs import convert

WNIDS = ["n01443537", "n01629819", "n01641577"]
JUNK = ["lost+found", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", ".ipynb_checkpoints"]


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg_bytes(smooth_image(24, 20, seed)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Tiny ImageNet's folders, with two images of three classes in train and val."""
    root = tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200"
    lines = []
    for number, wnid in enumerate(sorted(WNIDS * 2)):
        write_image(root / f"train/{wnid}/images/{wnid}_{number}.JPEG", number)
        (root / f"train/{wnid}/{wnid}_boxes.txt").write_text(f"{wnid}_{number}.JPEG\t0\t10\t3\t9\n")
        write_image(root / f"val/images/val_{number}.JPEG", 10 + number)
        write_image(root / f"test/images/test_{number}.JPEG", 20 + number)
    for number, wnid in enumerate(sorted(WNIDS * 2, reverse=True)):
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    return root


def converted(path, source, *options):
    """The labels and classes of a source that jobs/convert.py converts to ``path``."""
    assert convert.main([str(source), str(path), *map(str, options)]) == 0
    return sorted(open_beton(path).labels.tolist()), read_manifest(path)["classes"]


def refusal(capsys, tmp_path, source, *options):
    """What jobs/convert.py prints when it refuses a source, which must be one line."""
    capsys.readouterr()
    assert convert.main([str(source), str(tmp_path / "out.beton"), *map(str, options)]) == 2
    assert not list(tmp_path.glob("out.beton*"))
    (line,) = capsys.readouterr().err.strip().split("\n")
    return line


def test_tiny_imagenet(tiny, tmp_path):
    expected = [0, 0, 1, 1, 2, 2], WNIDS
    assert converted(tmp_path / "train.beton", tiny / "train") == expected
    assert converted(tmp_path / "val.beton", tiny / "val") == expected


def test_labels_of_tiny_imagenets_val_are_those_of_its_annotations(tiny):
    source = open_source(tiny / "val")
    found = {source.read(i).name.rpartition("/")[2]: source.labels[i] for i in range(6)}
    assert found == {f"val_{number}.JPEG": 2 - number // 2 for number in range(6)}
    for path in (tiny / "val", tiny / "val/images"):
        labeled = open_source(path, labels=tiny / "val/val_annotations.txt")
        assert labeled.labels.tolist() == source.labels.tolist()


@pytest.mark.parametrize("level", ["", ".."])
def test_folder_above_the_splits_is_refused_with_the_right_one(tiny, tmp_path, capsys, level):
    line = refusal(capsys, tmp_path, tiny / level)
    assert str((tiny / level / "train") if not level else (tiny / level / tiny.name)) in line


def test_folder_of_one_class_is_refused(tiny, tmp_path, capsys):
    line = refusal(capsys, tmp_path, tiny / "train" / WNIDS[0])
    assert "has only the class images; give a source of two or more" in line


def test_kaggles_folders(tmp_path, capsys):
    root = tmp_path / "ILSVRC"
    for number, wnid in enumerate(WNIDS * 2):
        write_image(root / f"Data/CLS-LOC/train/{wnid}/{wnid}_{number}.JPEG", number)
        write_image(root / f"Data/CLS-LOC/val/ILSVRC2012_val_{number}.JPEG", 10 + number)
        notes = root / f"Annotations/CLS-LOC/train/{wnid}/{number}.xml"
        notes.parent.mkdir(parents=True, exist_ok=True)
        notes.touch()
    (root / "ImageSets/CLS-LOC").mkdir(parents=True)
    solution = tmp_path / "LOC_val_solution.csv"
    rows = [f"ILSVRC2012_val_{n},{w} 1 2 3 4 {w} 5 6 7 8" for n, w in enumerate(WNIDS * 2)]
    solution.write_text("\n".join(["ImageId,PredictionString", *rows]))
    train, val = (root / "Data/CLS-LOC" / split for split in ("train", "val"))
    assert converted(tmp_path / "train.beton", train) == ([0, 0, 1, 1, 2, 2], WNIDS)
    found = converted(tmp_path / "val.beton", val, "--labels", solution)
    assert found == ([0, 0, 1, 1, 2, 2], WNIDS)
    for above in (root, root / "Data", root / "Data/CLS-LOC"):
        assert str(train) in refusal(capsys, tmp_path, above)


def test_what_systems_leave_in_folders_is_no_class(tiny, tmp_path, caplog):
    root = shutil.copytree(tiny / "train", tmp_path / "train")
    for name in JUNK:
        for folder in (root, root / WNIDS[0]):
            write_image(folder / name / "a.jpg", 0)
    write_image(root / WNIDS[0] / "._a.jpg", 0)
    assert converted(tmp_path / "train.beton", root) == ([0, 0, 1, 1, 2, 2], WNIDS)
    (text,) = caplog.messages
    assert text == f"{root}: skipped 13 hidden or system files, 3 .txt files"


def test_each_file_that_is_not_converted_is_counted(tmp_path, caplog):
    caplog.set_level("INFO", "data_pipeline")
    flat = tmp_path / "flat"
    for number in range(2):
        write_image(flat / f"{number}.jpg", number)
    for name in ("a.xml", "b.xml", "README", ".hidden"):
        (flat / name).touch()
    labels = tmp_path / "labels.txt"
    labels.write_text("0\n1")
    open_source(flat, labels=labels)
    folders = tmp_path / "folders.tar"
    write_shard(folders, ["a/0.jpg", "b/0.jpg", "a/notes.txt", "b/.hidden", "__MACOSX/a/0.jpg"])
    open_source(folders)
    shard = tmp_path / "shard.tar"
    write_shard(shard, ["a.jpg", "a.cls", "a.json", "a.mask.jpg", "b.jpg", "b.cls"])
    open_source(shard)
    assert [text.partition(": skipped ")[2] for text in caplog.messages] == [
        "2 .xml files, 1 file without a suffix, 1 hidden or system file",
        "2 hidden or system files, 1 .txt file",
        "1 .jpg file, 1 .json file",
    ]


@pytest.mark.parametrize("form", ["lines", "JSON object"])
def test_some_classes_only(tiny, tmp_path, form):
    chosen = tmp_path / ("some.txt" if form == "lines" else "Labels.json")
    names = [WNIDS[2], WNIDS[0]]
    text = "".join(f"{name} a name\n" for name in names)
    chosen.write_text(text if form == "lines" else json.dumps(dict.fromkeys(names, "a name")))
    for split in ("train", "val"):
        path = tmp_path / f"{split}.beton"
        found = converted(path, tiny / split, "--only-classes", chosen)
        assert found == ([0, 0, 1, 1], [WNIDS[0], WNIDS[2]])


def test_numbers_are_indices_into_the_classes_of_another_dataset(tiny, tmp_path):
    converted(tmp_path / "train.beton", tiny / "train")
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("201201"))
    options = ("--labels", labels, "--classes", tmp_path / "train.beton")
    found = converted(tmp_path / "val.beton", tiny / "val/images", *options)
    assert found == ([0, 0, 1, 1, 2, 2], WNIDS)
    source = open_source(tiny / "val/images", labels=labels)
    assert source.labels.tolist() == [2, 0, 1, 2, 0, 1]


def test_names_are_matched_and_a_class_may_have_no_image(tiny, tmp_path):
    names = ["n99999999", WNIDS[1], WNIDS[0], WNIDS[2]]
    given = tmp_path / "names.json"
    given.write_text(json.dumps(names))
    found = converted(tmp_path / "train.beton", tiny / "train", "--classes", given)
    assert found == ([1, 1, 2, 2, 3, 3], names)


@pytest.mark.parametrize("option", ["--classes", "--only-classes"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "has no names"),
        ("n01443537\nn01443537", "has the class n01443537 twice"),
        ("n01443538\nn01629819\nn01641577", "the first is n0144353"),
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


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\nb", b"\x1b[31mred"])
def test_class_whose_name_no_manifest_can_hold_is_refused_before_decoding(tmp_path, capsys, name):
    root = tmp_path / "source"
    for folder in (b"a", name):
        path = root / folder.decode("utf-8", "surrogateescape")
        path.mkdir(parents=True)
        (path / "broken.jpg").write_bytes(b"no image")
    assert "whose name is not UTF-8 or has control" in refusal(capsys, tmp_path, root)


def test_image_of_any_name_is_converted_or_named(tmp_path, capsys):
    root = tmp_path / "source"
    name = b"caf\xe9\x1b.jpg".decode("utf-8", "surrogateescape")
    for label in "ab":
        write_image(root / label / name, 1)
    (root / "a" / f"broken{name}").write_bytes(b"no image")
    path = tmp_path / "out.beton"
    assert converted(path, root, "--max-undecodable", 1) == ([0, 1], ["a", "b"])
    (left_out,) = read_manifest(path)["left_out"]
    assert r"brokencaf\udce9\x1b.jpg is not an image" in left_out
    assert r"brokencaf\udce9\x1b.jpg" in capsys.readouterr().out


def test_zip_is_to_be_unpacked(tmp_path):
    path = tmp_path / "tiny-imagenet-200.zip"
    path.touch()
    with pytest.raises(SourceError, match="unpack it"):
        open_source(path)


def write_shard(path, names):
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names):
            image = jpeg_bytes(smooth_image(24, 20, number))
            content = image if name.endswith(".jpg") else str(number % 2).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_members_of_a_shard_with_several_dots_are_taken(tmp_path):
    path = tmp_path / "shard.tar"
    write_shard(
        path, ["n01.5.jpg", "x/n02.6.jpg", "n01.5.cls", "x/n02.6.cls", "n03.jpg", "n03.cls"]
    )
    source = open_source(path)
    assert sorted(source.labels.tolist()) == [0, 1, 1]
    assert len(source.classes) == 2


def test_member_of_a_shard_without_a_class_is_refused_by_name(tmp_path):
    path = tmp_path / "shard.tar"
    write_shard(path, ["a.jpg", "a.cls", "b.jpg", "b.cls", "c.more.jpg"])
    with pytest.raises(SourceError, match=r"has no \.cls for the key c\.more"):
        open_source(path)
