"""Datasets in the folders in which they are distributed, and folders that are not classes."""

import io
import shutil
import tarfile

import pytest
from support.image_makers import jpeg_bytes, smooth_image
from support.layout_makers import WNIDS, convert_to, refusal, write_image, write_shard

from data_pipeline.sources import SourceError, open_source


def test_tiny_imagenet(tiny, tmp_path):
    expected = [0, 0, 1, 1, 2, 2], WNIDS
    assert convert_to(tmp_path / "train.beton", tiny / "train") == expected
    assert convert_to(tmp_path / "val.beton", tiny / "val") == expected


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
    assert "has images of only the class images; give a source of two or more" in line


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
    assert convert_to(tmp_path / "train.beton", train) == ([0, 0, 1, 1, 2, 2], WNIDS)
    found = convert_to(tmp_path / "val.beton", val, "--labels", solution)
    assert found == ([0, 0, 1, 1, 2, 2], WNIDS)
    for above in (root, root / "Data", root / "Data/CLS-LOC"):
        assert str(train) in refusal(capsys, tmp_path, above)


NOT_CLASSES = {
    "Kaggle's ImageNet-100": ["train.X1", "train.X2", "train.X3", "train.X4", "val.X"],
    "names with images": ["train_images", "val_images"],
    "sets": ["training_set", "test_set"],
    "the dataset's name": ["imagenet-train", "imagenet-val"],
    "years": ["train2017", "val2017"],
    "prefixes": ["seg_train", "seg_test"],
    "dev": ["train", "dev"],
    "unlabeled beside train": ["train", "unlabeled"],
    "devkit beside train": ["train", "ILSVRC2012_devkit_t12"],
    "three and another": ["train", "val", "test", "extra"],
    "one split": ["train"],
}


def write_splits(root, names):
    """Folders with classes in the first one, and images in the others."""
    for label in WNIDS:
        write_image(root / names[0] / label / "0.jpg", 0)
    for name in names[1:]:
        write_image(root / name / "1.jpg", 1)


@pytest.mark.parametrize("kind", NOT_CLASSES)
def test_splits_under_any_name_are_no_classes(tmp_path, capsys, kind):
    names = NOT_CLASSES[kind]
    root = tmp_path / "data set"
    write_splits(root, names)
    line = refusal(capsys, tmp_path, root)
    assert "not classes; convert " in line
    assert str(root / names[0]) in line
    tar = tmp_path / "all.tar"
    with tarfile.open(tar, "w") as archive:
        for name in names:
            archive.add(root / name, name)
    if len(names) > 1:
        assert "not classes; unpack it" in refusal(capsys, tmp_path, tar)


def test_parts_of_a_split_are_to_be_moved_together(tmp_path, capsys):
    for part in ("train.X1", "train.X2", "val.X"):
        for label in (f"{part[-2:]}-a", f"{part[-2:]}-b"):
            write_image(tmp_path / "root" / part / label / "0.jpg", 0)
    line = refusal(capsys, tmp_path, tmp_path / "root")
    assert "if train.X1 and train.X2 are parts of one split, move their class folders" in line


def test_folder_of_one_folder_has_no_others(tmp_path, capsys):
    write_splits(tmp_path / "root", ["train"])
    (tmp_path / "root" / "__MACOSX").mkdir()
    line = refusal(capsys, tmp_path, tmp_path / "root")
    assert line.strip().endswith(f"convert {tmp_path}/root/train")


def test_kaggles_folder_as_unpacked_names_the_level_of_train(tmp_path, capsys):
    root = tmp_path / "kaggle"
    write_splits(root / "ILSVRC" / "Data" / "CLS-LOC", ["train", "val", "test"])
    (root / "ILSVRC" / "Annotations" / "CLS-LOC" / "train" / WNIDS[0]).mkdir(parents=True)
    (root / "LOC_val_solution.csv").touch()
    level = "ILSVRC/Data/CLS-LOC/train"
    for parent in (root, root / "ILSVRC", root / "ILSVRC" / "Data"):
        assert f"{root / level}" in refusal(capsys, tmp_path, parent)


@pytest.mark.parametrize("subfolder", ["", "images"])
def test_classes_may_be_named_like_splits_and_parents(tmp_path, subfolder):
    names = ["bullet_train", "data", "images", "test-tube", "train", "unicycle"]
    for seed, name in enumerate(names):
        write_image(tmp_path / "source" / name / subfolder / "0.jpg", seed)
    found = convert_to(tmp_path / "out.beton", tmp_path / "source")
    assert found == (list(range(6)), names)


def test_second_folder_beside_the_images_of_val_is_no_class(tiny, tmp_path, caplog):
    root = shutil.copytree(tiny / "val", tmp_path / "val")
    write_image(root / "more" / "0.jpg", 0)
    write_image(root / "stray.jpg", 0)
    write_image(root / "images" / "nested" / "0.jpg", 0)
    (root / "README").touch()
    assert convert_to(tmp_path / "out.beton", root) == ([0, 0, 1, 1, 2, 2], WNIDS)
    assert [text.partition(": skipped ")[2] for text in caplog.messages] == [
        "1 .jpg file, 1 file without a suffix, 1 folder",
        "1 folder",
    ]


def test_images_of_one_label_are_refused(tmp_path, capsys):
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        for name, content in (("a.jpg", jpeg_bytes(smooth_image(24, 20))), ("a.cls", b"3")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert "has images of only the class 3; give" in refusal(capsys, tmp_path, shard)


def test_zip_is_to_be_unpacked(tmp_path):
    path = tmp_path / "tiny-imagenet-200.zip"
    path.touch()
    with pytest.raises(SourceError, match="unpack it"):
        open_source(path)


def test_images_beside_tars_are_refused(tmp_path):
    write_shard(tmp_path / "0.tar", ["a.jpg", "a.cls", "b.jpg", "b.cls"])
    write_image(tmp_path / "stray.jpg", 0)
    with pytest.raises(SourceError, match=r"has tars and images, such as stray\.jpg"):
        open_source(tmp_path)


def test_tar_of_tiny_imagenets_val_is_to_be_unpacked(tiny, tmp_path):
    path = tmp_path / "val.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(tiny / "val", "val")
    with pytest.raises(SourceError, match=r"val_annotations\.txt; unpack it"):
        open_source(path)


def test_members_of_a_shard_with_several_dots_are_taken(tmp_path):
    path = tmp_path / "shard.tar"
    write_shard(
        path, ["n01.5.jpg", "x/n02.6.jpg", "n01.5.cls", "x/n02.6.cls", "n03.jpg", "n03.cls"]
    )
    source = open_source(path)
    assert sorted(source.labels.tolist()) == [0, 1, 1]
    assert len(source.classes) == 2


@pytest.mark.parametrize(
    ("image", "label"),
    [("a.image.jpg", "a.cls"), ("a.jpg", "a.target.cls"), ("a.input.jpg", "a.target.cls")],
)
def test_keys_of_a_shard_end_at_the_first_dot(tmp_path, image, label):
    path = tmp_path / "shard.tar"
    write_shard(path, [image, label, "b.jpg", "b.seg.png", "b.cls", "b.more.cls"])
    source = open_source(path)
    assert sorted(source.labels.tolist()) == [0, 1]


def test_two_images_of_one_key_are_refused(tmp_path):
    path = tmp_path / "shard.tar"
    write_shard(path, ["a.left.jpg", "a.right.jpg", "a.cls", "b.jpg", "b.cls"])
    with pytest.raises(SourceError, match=r"a\.right\.jpg and a\.left\.jpg of one key, a"):
        open_source(path)


def test_member_of_a_shard_without_a_class_is_refused_by_name(tmp_path):
    path = tmp_path / "shard.tar"
    write_shard(path, ["a.jpg", "a.cls", "b.jpg", "b.cls", "c.more.jpg"])
    with pytest.raises(SourceError, match=r"has no \.cls for the key c\.more"):
        open_source(path)
