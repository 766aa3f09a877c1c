"""Sources return the stored bytes of each image, with its class."""

import gzip
import os
import pickle
import tarfile

import numpy as np
import pytest
from support.source_makers import (
    WNIDS,
    class_tars,
    idx,
    image,
    samples,
    tar_bytes,
    val_images,
    write_cifar,
    write_devkit,
    write_files,
    write_tar,
)

from data_pipeline.sources import SourceError, open_source
from data_pipeline.sources.array_pickle import load_arrays
from data_pipeline.sources.image_labels import human_names, imagenet_names
from data_pipeline.sources.skipped import Skipped
from data_pipeline.sources.source import Names
from data_pipeline.sources.tar_images import MAX_OPEN_TARS
from data_pipeline.sources.tar_members import read_members


def test_names_of_imagenets_classes():
    assert len(imagenet_names()) == 1000
    assert list(imagenet_names()) == sorted(imagenet_names())
    names = human_names(["n02102040", "cat", "n03888257", "n99999999"])
    assert names == ["English springer", "cat", "parachute", "n99999999"]


def test_packed_names():
    names = ["a/ü.jpg", "", "b\udcff.jpg", "c"]
    packed = Names.of(names)
    assert [packed[index] for index in range(len(packed))] == names


def test_folder(tmp_path):
    names = ["b/2.JPG", "b/x/1.png", "a/1.jpeg"]
    root = write_files(tmp_path / "images", {name: image(name) for name in names})
    hidden = ["b/._2.JPG", ".git/1.jpg", ".DS_Store", "b/.cache/1.jpg", "b/notes.txt"]
    write_files(root, dict.fromkeys(hidden, b""))
    write_files(tmp_path / "elsewhere", {"1.jpg": image("linked")})
    (root / "c").symlink_to(tmp_path / "elsewhere")
    expected = [("a", "a/1.jpeg"), ("b", "b/2.JPG"), ("b", "b/x/1.png"), ("c", "linked")]
    assert samples(open_source(root)) == [(label, image(name)) for label, name in expected]


@pytest.mark.parametrize("prefix", ["", "./", "./data/train/", "/data/"])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_of_folders(tmp_path, prefix, format):
    long = "b/" + "deep/" * 18 + "é" * 20 + ".jpg"
    names = ["b/2.jpg", long, "a/x/1.PNG", "b/1.jpg"]
    contents = {prefix + name: image(name) for name in names}
    contents |= {prefix + "a": None, prefix + "a/._1.jpg": b"x", "README.txt": b"x"}
    contents |= {prefix + ".DS_Store": b"x", "other/folder/empty": None}
    path = write_tar(tmp_path / "t.tar", contents, format=format)
    expected = ["a/x/1.PNG", "b/1.jpg", "b/2.jpg", long]
    assert samples(open_source(path)) == [(name[0], image(name)) for name in expected]


def test_offsets_of_members_equal_tarfiles(tmp_path):
    contents = {f"{'d' * (index * 7)}/{index}.jpg": image(str(index)) for index in range(40)}
    path = write_tar(tmp_path / "t.tar", contents, format=tarfile.PAX_FORMAT)
    with tarfile.open(path) as archive:
        expected = [(m.name.lstrip("/"), m.offset_data, m.size) for m in archive]
    assert [(m.name, m.offset, m.size) for m in read_members(path, Skipped())] == expected


def test_train_tar_and_its_class_tars(tmp_path):
    expected = [(wnid, image(f"{wnid}{n}")) for wnid in WNIDS for n in (12, 7)]
    path = write_tar(tmp_path / "train.tar", class_tars())
    assert samples(open_source(path)) == expected
    folder = write_files(tmp_path / "train", {**class_tars(), "._n01440764.tar": b"x"})
    assert samples(open_source(folder)) == expected


def test_many_tars_are_not_all_kept_open(tmp_path):
    shards = {
        f"{n:03}.tar": tar_bytes({"k.jpg": image(str(n)), "k.cls": b"0"})
        for n in range(MAX_OPEN_TARS + 30)
    }
    folder = write_files(tmp_path / "shards", shards)
    num_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    source = open_source(folder)
    for index in [*range(len(shards)), *range(len(shards))]:
        assert source.read(index).image == image(str(index))
    assert len(os.listdir("/proc/self/fd")) <= num_before + MAX_OPEN_TARS  # noqa: PTH208
    del source
    assert len(os.listdir("/proc/self/fd")) <= num_before  # noqa: PTH208


@pytest.mark.parametrize("kind", ["t12.tar.gz", "t12"])
@pytest.mark.parametrize("packed", [True, False])
def test_val_with_the_devkit(tmp_path, kind, packed):
    labels = write_devkit(tmp_path / kind)
    contents = val_images()
    if packed:
        path = write_tar(tmp_path / "val.tar", {f"./val/{n}": c for n, c in contents.items()})
    else:
        path = write_files(tmp_path / "val", {**contents, "._x.JPEG": b""})
    source = open_source(path, labels=labels)
    assert source.classes == WNIDS
    wnids = [WNIDS[0], WNIDS[1], WNIDS[2], WNIDS[1]]
    assert samples(source) == list(zip(wnids, reversed(contents.values()), strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n3\nn1\nn1\nn2\n", "n3 n1 n1 n2"),
        ("2\n0\n\n0\n3\n", "2 0 0 3"),
        ("\ufeff2\n0\n0\n3\n", "2 0 0 3"),
        ("label\n2\n0\n0\n3", "2 0 0 3"),
        ("1.JPEG 0\n3 2\nval/4.JPEG 5\n2.JPEG\t1\n", "0 1 2 5"),
        ("name,label\r\n1.JPEG,n2\r\n3,n1\r\n4,n2\r\n2,n3\r\n", "n2 n3 n1 n2"),
        ('ImageId,PredictionString\n4,n2 8 1 4 2\n1,"n1 1 2 3 4 n1 5 6 7 8"\n2,n1 1\n3,n1', None),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_label_files(tmp_path, text, expected, packed):
    def full(text):
        for digit in "123":
            text = text.replace(f"n{digit}", WNIDS[int(digit) - 1])
        return text

    (tmp_path / "labels.txt").write_text(full(text), encoding="utf-8", newline="")
    contents = {f"{n}.JPEG": image(str(n)) for n in (2, 4, 1, 3)}
    if packed:
        path = write_tar(tmp_path / "val.tar", contents)
    else:
        path = write_files(tmp_path / "val", contents)
    source = open_source(path, labels=tmp_path / "labels.txt")
    names = full(expected or "n1 n1 n1 n2").split()
    assert samples(source) == [(n, image(str(i))) for i, n in enumerate(names, start=1)]
    numbered = [str(index) for index in range(1 + max(map(int, names)))] if "0" in names else []
    assert source.classes == (numbered or sorted(set(names)))


@pytest.mark.parametrize(("number", "other", "expected"), [
    (501, [], 1000), (500, [], 500), (501, ["n99999999"], 502),
])  # fmt: skip
def test_labels_of_most_imagenet_classes_imply_all_1000(tmp_path, number, other, expected):
    wnids = [*imagenet_names()][100 : 100 + number] + other
    (tmp_path / "labels").write_text("\n".join(wnids))
    path = write_tar(tmp_path / "val.tar", val_images(len(wnids)))
    source = open_source(path, labels=tmp_path / "labels")
    assert len(source.classes) == expected
    assert [source.classes[label] for label in source.labels] == wnids


@pytest.mark.parametrize("given", ["shards", "t-{08..10}.tar", "shards/one.tar"])
def test_shards(tmp_path, given):
    keys = ["x/b.c", "a", "Z"]
    contents = []
    for label, key in enumerate(keys):
        stem = key.partition(".")[0]
        contents += [(f"{stem}.cls", f"{2 * label}\n".encode()), (f"{stem}.JPG", image(key))]
        contents += [(f"{stem}.json", b"{}"), (f"{stem}.seg.png", b"x"), (f".{stem}.jpg", b"x")]
    expected = [(str(2 * label), image(key)) for label, key in enumerate(keys)]
    if given.endswith("one.tar"):
        paths = [tmp_path / given]
    elif given == "shards":
        paths = [tmp_path / "shards" / f"t-{n}.tar" for n in range(3)]
    else:
        paths = [tmp_path / f"t-{n:02}.tar" for n in (8, 9, 10)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        write_tar(path, contents)
    source = open_source(tmp_path / given)
    assert source.classes == ["0", "1", "2", "3", "4"]
    assert samples(source) == expected * len(paths)
    assert {source.read(i).name.split(": ")[0] for i in range(len(source.labels))} == {
        str(path) for path in paths
    }


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    ("folder", "split", "names", "classes"),
    [
        ("cifar-10-batches-py", "train", [f"data_batch_{n}" for n in range(1, 6)], ["dog", "cat"]),
        ("cifar-10-batches-py", "test", ["test_batch"], ["dog", "cat"]),
        ("cifar-100-python", "train", ["train"], ["oak", "bus"]),
        ("cifar-100-python", "test", ["test"], ["oak", "bus"]),
    ],
)
def test_cifar(tmp_path, protocol, folder, split, names, classes):
    pixels = write_cifar(tmp_path / "root", protocol)
    source = open_source(tmp_path / "root" / folder, split=split)
    found = samples(source)
    assert [label for label, _ in found] == classes * len(names)
    expected = np.concatenate([pixels[f"{folder}/{name}"] for name in names])
    assert np.array_equal([stored for _, stored in found], expected)
    (tmp_path / "parent").mkdir()
    (tmp_path / "root" / folder).rename(tmp_path / "parent" / folder)
    parent = samples(open_source(tmp_path / "parent", split=split))
    assert np.array_equal([stored for _, stored in parent], expected)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_unpickling_runs_no_code(tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": Malicious(tmp_path / "made")}))
    with pytest.raises(SourceError, match=r"batch cannot be unpickled \(posix\.mkdir"):
        load_arrays(path)
    assert not (tmp_path / "made").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "made").exists()


def test_idx_folder(tmp_path):
    gray = np.arange(2 * 3 * 5 * 4, dtype=np.uint8).reshape(2, 3, 5, 4)
    for part, name in enumerate(("train", "t10k")):
        labels = np.array([part, 2, 0])
        files = {"images-idx3": idx(gray[part]), "labels-idx1": idx(labels)}
        for kind, content in files.items():
            suffix, content = (".gz", gzip.compress(content)) if part else ("", content)
            write_files(tmp_path / "mnist", {f"{name}-{kind}-ubyte{suffix}": content})
    for part, split in enumerate(("train", "test")):
        found = samples(open_source(tmp_path / "mnist", split=split))
        assert [label for label, _ in found] == [str(part), "2", "0"]
        assert np.array_equal([stored for _, stored in found], np.stack([gray[part]] * 3, -1))
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    assert samples(open_source(path))[0][0] == "1"
