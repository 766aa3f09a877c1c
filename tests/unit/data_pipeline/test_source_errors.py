"""Problems of a source are errors when it is opened, with the path and the remedy."""

import gzip
import os
import pickle
import tarfile

import numpy as np
import pytest
from support.source_makers import (
    class_tars,
    devkit,
    idx,
    image,
    tar_bytes,
    val_images,
    write_cifar,
    write_devkit,
    write_files,
    write_tar,
)

from data_pipeline.sources import SourceError, open_source


def assert_refused(path, *parts, **options):
    """Check that the error names the parts of the problem and ends in a remedy; returns it."""
    with pytest.raises(SourceError) as caught:
        open_source(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    problem, separator, remedy = message.partition("; ")
    assert separator
    assert remedy
    for part in parts:
        assert str(part) in problem
    return message


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("missing", None, "does not exist"),
        ("a.parquet", b"PAR1", "not a known source"),
        ("a.tar.gz", gzip.compress(tar_bytes({"a/1.jpg": b"x"}), mtime=0), "is compressed"),
        ("a.TGZ", b"", "is compressed"),
        ("a.tar.bz2", b"", "is compressed"),
        ("a.tar.xz", b"", "is compressed"),
        ("a.tar", gzip.compress(tar_bytes({"a/1.jpg": b"x"}), mtime=0), "is compressed"),
        ("a.tar", b"", "damaged or truncated from its beginning"),
        ("a.tar", b"no tar" * 999, "damaged or truncated from its beginning"),
        ("a.tar", tar_bytes({"a/1.jpg": b"x" * 999})[:1000], "ends within its member a/1.jpg"),
        ("a.tar", tar_bytes({"a/1.jpg": b"x"})[:1024], "truncated after its member a/1.jpg"),
        ("a.tar", tar_bytes({"a/1.jpg": b"x"})[:1024] + b"y" * 512, "after its member a/1.jpg"),
        ("a.tar", tar_bytes({}), "no images"),
        ("a.tar", tar_bytes({"a": None, "a/1.txt": b""}), "no images"),
        ("a.tar", tar_bytes({"x/a/1.jpg": b"", "x/b/1.jpg": b"", "x/c": None}), "in x/c"),
        ("a.tar", tar_bytes({"x/a/1.jpg": b"", "x/2.jpg": b""}), "x/2.jpg outside"),
        ("a.tar", tar_bytes([("a/1.jpg", b""), ("b/1.jpg", b""), ("./a/1.jpg", b"x")]), "twice"),
        ("a.tar", tar_bytes({"1.jpg": b"", "2.jpg": b""}), "in one folder, without classes"),
        ("a.tar", tar_bytes({"n01440764.tar": tar_bytes({})}), "n01440764.tar has no images"),
        ("a.tar", tar_bytes({"n01440764.tar": b"", "other": b""}), "other beside tars of classes"),
        ("a.tar", tar_bytes({"n01440764.tar": tar_bytes({"1.jpg": b"x"})[:1024]}), "n01440764.tar"),
        (
            "a.tar",
            tar_bytes({"n01440764.tar": tar_bytes({"1.jpg": b"x" * 9999})[:1536]}),
            "a.tar/n01440764.tar ends within its member 1.jpg",
        ),
        ("a.tar", tar_bytes({"x/a.jpg": b"", "x/b.cls": b"1"}), "no .cls for the key x/a"),
        ("a.tar", tar_bytes({"a.cls": b"1"}), "no image for the key a"),
        ("a.tar", tar_bytes({"a.jpg": b"", "a.cls": b"1.5"}), "b'1.5' as class of the key a"),
        ("a.tar", tar_bytes({"a.jpg": b"", "a.cls": b"-1"}), "b'-1' as class of the key a"),
        ("a.tar", tar_bytes({"a.jpg": b"", "a.cls": b"9" * 5000}), "as class of the key a"),
        ("a.tar", tar_bytes({"a.jpg": b"", "a.PNG": b"", "a.cls": b"1"}), "of one key, a"),
        ("a-{2..1}.tar", None, "ends before it starts"),
        ("a-{0..1}.tar", None, "a-0.tar of"),
        ("images-idx3", b"\x00\x00\x08", "not an IDX file"),
        ("images-idx3", b"\x00\x00\x08\x03\x00\x00", "truncated"),
        ("images-idx3", idx(np.zeros((2, 2, 2)))[:-1], "truncated"),
        ("images-idx3", idx(np.zeros((2, 2, 2))) + b"\0", "too long"),
        ("images-idx3", b"\x00\x00\x08\x03" + b"\x80\0\0\0" * 3, "an array [2147483648, "),
        ("images-idx3.gz", gzip.compress(idx(np.zeros((2, 2, 2))) + bytes(9), mtime=0), "long"),
        ("images-idx3.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03garbage", "cannot be read"),
        ("images-idx3", idx(np.zeros((2, 2, 2))), "labels-idx1"),
    ],
)  # fmt: skip
def test_invalid_file_is_refused(tmp_path, name, content, problem):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, tmp_path, problem)


@pytest.mark.parametrize("type", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_to_images_in_a_tar_are_refused(tmp_path, type):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a/1.jpg")
        info.type, info.linkname = type, "b/1.jpg"
        archive.addfile(info)
    assert_refused(tmp_path / "a.tar", tmp_path / "a.tar", "a/1.jpg only as a link")


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        ({}, "no images"),
        ({"notes.txt": b""}, "no images"),
        ({"a/1.jpg": b"", "b/1.txt": b""}, "images/b has no images"),
        ({"a/1.jpg": b"", "2.jpg": b""}, "2.jpg is outside"),
        ({"1.jpg": b"", "2.jpg": b""}, "without classes"),
        ({"a/1.jpg": b"", "n01440764.tar": b""}, "tars and folders"),
        ({"n01440764.tar": tar_bytes({"a.txt": b""})}, "n01440764.tar has no images"),
        ({"n01440764.tar": tar_bytes([("1.jpg", b"")] * 2)}, "holds 1.jpg twice"),
        ({"s.tar": tar_bytes({"a.txt": b""})}, "no images with classes"),
        ({"s.tar": tar_bytes({"a.jpg": b""})}, "s.tar has no .cls"),
        ({"x-images-idx3-ubyte": b""}, "no train-images-idx3-ubyte"),
        ({"train-images-idx3-ubyte": idx(np.zeros((2, 2, 2)))}, "train-labels-idx1-ubyte"),
        (
            {
                "train-images-idx3-ubyte": idx(np.zeros((2, 2, 2))),
                "train-labels-idx1-ubyte": idx(np.zeros(3)),
            },
            "holds (2, 2, 2)",
        ),
        (
            {
                "train-images-idx3-ubyte": idx(np.zeros((0, 2, 2))),
                "train-labels-idx1-ubyte": idx(np.zeros(0)),
            },
            "no images",
        ),
        ({"meta": b"", "train": b""}, "meta cannot be unpickled"),
        ({"meta": pickle.dumps([]), "train": b""}, "meta is not a batch"),
        ({"meta": pickle.dumps({}), "train": b""}, "meta has no fine_label_names"),
        ({"meta": pickle.dumps({"fine_label_names": ["a"]}), "test": b""}, "train does not exist"),
        (
            {
                "meta": pickle.dumps({"fine_label_names": ["a"]}),
                "train": pickle.dumps(
                    {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [1]}, protocol=2
                ),
            },
            "train lacks images",
        ),
    ],
)
def test_invalid_folder_is_refused(tmp_path, contents, problem):
    root = tmp_path / "images"
    root.mkdir()
    assert_refused(write_files(root, contents), root, problem)


def test_several_cifar_folders_and_unknown_splits_are_refused(tmp_path):
    write_cifar(tmp_path)
    message = assert_refused(tmp_path, tmp_path, "CIFAR more than once")
    assert str(tmp_path / "cifar-100-python") in message
    assert_refused(tmp_path, tmp_path, "'val'", split="val")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("missing", None, "does not exist"),
        ("labels", b"", "has no labels"),
        ("labels", b"label\n", "has no labels"),
        ("labels", b"\xff\xfe\x00", "is not text"),
        ("labels", b"0\n1\n2\n", "has 3 labels for the 4 images"),
        ("labels", b"0\n1\n2\n3\n4\n", "has 5 labels for the 4 images"),
        ("labels", b"0\n1\ndog\n3\n", "a line 'dog'"),
        ("labels", b"0\n1\n-2\n3\n", "a line '-2'"),
        ("labels", b"0\n1\n2,\n3\n", "a line '2 '"),
        ("labels", b"0\n1\n1000000\n3\n", "a line '1000000'"),
        ("labels", b"0\n1\n" + b"9" * 5000 + b"\n3\n", "a line '999"),
        ("labels", b"0\n1\n2 2\n3\n", "a line '2 2'"),
        ("labels", b"0\n1\nn01440764\n3\n", "mixes wnids and class numbers"),
        ("labels", b"1,0\n2,0\n3,0\n3,0\n", "two labels for 3"),
        ("labels", b"1,0\n2,0\n3,0\n5,0\n", "no label for 4.JPEG"),
        ("ILSVRC2012_validation_ground_truth.txt", b"1\n2\n3\n4\n", "has ids of ILSVRC"),
        ("kit.tar.gz", b"x", "is damaged"),
        ("kit.tar.gz", gzip.compress(tar_bytes({"data/meta.mat": b""}), mtime=0), "lacks data/"),
        (
            "kit.tgz",
            gzip.compress(tar_bytes({f"t12/data/{n}": b"0" for n in devkit()}), mtime=0),
            "cannot be understood",
        ),
    ],
)  # fmt: skip
def test_invalid_labels_are_refused(tmp_path, name, content, problem):
    path = write_files(tmp_path / "val", {f"{n}.JPEG": b"" for n in (1, 2, 3, 4)})
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert_refused(path, tmp_path / name, problem, labels=tmp_path / name)


@pytest.mark.parametrize("ids", [(30, 10, 20), (30, 10, 20, 1), (30, 10, 20, 99)])
def test_devkit_of_other_images_is_refused(tmp_path, ids):
    labels = write_devkit(tmp_path / "t12", ids=ids)
    path = write_tar(tmp_path / "val.tar", val_images())
    assert_refused(path, labels, "3 labels" if len(ids) == 3 else "understood", labels=labels)
    (labels / "data" / "meta.mat").unlink()
    assert_refused(path, labels, "lacks data/", labels=labels)


def test_images_that_differ_only_in_their_suffix_are_refused(tmp_path):
    path = write_files(tmp_path / "val", {"1.JPEG": b"", "1.png": b""})
    (tmp_path / "labels").write_text("1 0\n1.bmp.x 0\n")
    assert_refused(path, path, "only in their suffix", labels=tmp_path / "labels")


@pytest.mark.parametrize(
    "name", ["folder", "a.tar", "train.tar", "shard.tar", "s-{0..1}.tar", "images-idx3", "cifar"]
)
def test_labels_for_a_source_with_classes_are_refused(tmp_path, name):
    write_files(tmp_path / "folder", {"a/1.jpg": b"", "b/1.jpg": b""})
    write_tar(tmp_path / "a.tar", {"a/1.jpg": b"", "b/1.jpg": b""})
    write_tar(tmp_path / "train.tar", class_tars())
    for shard in ("shard", "s-0", "s-1"):
        write_tar(tmp_path / f"{shard}.tar", {"a.jpg": b"", "a.cls": b"0"})
    (tmp_path / "images-idx3").write_bytes(idx(np.zeros((1, 2, 2))))
    (tmp_path / "labels-idx1").write_bytes(idx(np.zeros(1)))
    write_cifar(tmp_path / "both")
    (tmp_path / "both" / "cifar-10-batches-py").rename(tmp_path / "cifar")
    assert len(open_source(tmp_path / name).labels) > 0
    labels = tmp_path / "labels.txt"
    labels.write_text("0\n")
    message = assert_refused(tmp_path / name, tmp_path / name, "its own classes", labels=labels)
    assert "leave labels out" in message


def test_tar_that_changes_after_it_was_opened_is_an_error(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a/1.jpg": image("a"), "b/1.jpg": image("b")})
    source = open_source(path)
    os.truncate(path, 600)
    with pytest.raises(SourceError, match=r"a\.tar became shorter"):
        source.read(1)
    path.unlink()
    with pytest.raises(SourceError, match=r"a\.tar cannot be read"):
        pickle.loads(pickle.dumps(source)).read(0)
