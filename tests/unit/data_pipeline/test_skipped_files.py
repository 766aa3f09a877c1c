"""What is not converted is counted, and what cannot be is refused by name before decoding."""

import os
import shutil
from pathlib import Path

import pytest
from support.layout_makers import WNIDS, convert_to, refusal, write_image, write_shard

from data_pipeline.manifest import read_manifest
from data_pipeline.sources import open_source

JUNK = ["lost+found", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", ".ipynb_checkpoints"]


def test_what_systems_leave_in_folders_is_no_class(tiny, tmp_path, caplog):
    root = shutil.copytree(tiny / "train", tmp_path / "train")
    for name in JUNK:
        for folder in (root, root / WNIDS[0]):
            write_image(folder / name / "a.jpg", 0)
    write_image(root / WNIDS[0] / "._a.jpg", 0)
    assert convert_to(tmp_path / "train.beton", root) == ([0, 0, 1, 1, 2, 2], WNIDS)
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


def test_links_to_folders_and_files_beside_tars_are_counted(tiny, tmp_path, caplog):
    caplog.set_level("INFO", "data_pipeline")
    root = shutil.copytree(tiny / "train", tmp_path / "train", ignore=lambda *_: [])
    (root / WNIDS[0] / "more").symlink_to(tiny / "val/images")
    open_source(root)
    shards = tmp_path / "shards"
    shards.mkdir()
    write_shard(shards / "0.tar", ["a.jpg", "a.cls", "b.jpg", "b.cls"])
    (shards / "sizes.json").touch()
    open_source(shards)
    assert [text.partition(": skipped ")[2] for text in caplog.messages] == [
        "3 .txt files, 1 link to a folder",
        "1 .json file",
    ]


@pytest.mark.parametrize("kind", ["FIFO", "link to nothing"])
@pytest.mark.parametrize("place", ["class", "flat folder", "source", "labels", "list"])
def test_what_is_no_regular_file_is_refused_at_once(tiny, tmp_path, capsys, kind, place):
    root = shutil.copytree(tiny / "train", tmp_path / "train")
    path = {"class": root / WNIDS[0] / "images", "flat folder": tmp_path / "flat"}.get(place)
    path = path / "2.jpg" if path else tmp_path / "2.tar"
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path) if kind == "FIFO" else path.symlink_to(tmp_path / "missing")
    source, options = {
        "class": (root, []),
        "flat folder": (path.parent, ["--labels", tiny / "wnids.txt"]),
        "source": (path, []),
        "labels": (tiny / "val/images", ["--labels", path]),
        "list": (root, ["--classes", path]),
    }[place]
    if kind != "FIFO" and place in ("source", "labels"):
        with pytest.raises(SystemExit):
            refusal(capsys, tmp_path, source, *options)
    else:
        assert str(path) in refusal(capsys, tmp_path, source, *options)


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
    assert convert_to(path, root, "--max-undecodable", 1) == ([0, 1], ["a", "b"])
    (left_out,) = read_manifest(path)["left_out"]
    assert r"brokencaf\udce9\x1b.jpg is not an image" in left_out
    assert r"brokencaf\udce9\x1b.jpg" in capsys.readouterr().out


def test_labels_of_images_whose_names_are_no_utf8(tmp_path):
    lines = []
    for number, name in enumerate((b"caf\xe9.jpg", b"b.jpg", b"c.jpg")):
        write_image(tmp_path / "flat" / os.fsdecode(name), number)
        lines.append(name + b",%d" % (number % 2))
    labels = tmp_path / "labels.csv"
    labels.write_bytes(b"\n".join(lines))
    source = open_source(tmp_path / "flat", labels=labels)
    found = {Path(source.read(i).name).name: source.labels[i] for i in range(3)}
    assert found == {os.fsdecode(b"caf\xe9.jpg"): 0, "b.jpg": 1, "c.jpg": 0}
