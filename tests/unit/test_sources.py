import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from scipy.io import savemat

from data_pipeline.class_names import human_names, imagenet_names
from data_pipeline.sources import SourceError, open_source
from data_pipeline.sources.array_pickle import load_arrays
from data_pipeline.sources.names import Names
from data_pipeline.sources.tar_images import MAX_OPEN_TARS
from data_pipeline.sources.tar_members import read_members

WNIDS = ["n01440764", "n01443537", "n01484850"]


def image(name):
    """Bytes that only this image has."""
    return f"pixels of {name}".encode() * (1 + len(name) % 50)


def tar_bytes(contents, format=tarfile.GNU_FORMAT):
    """Files by name; None for a folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for name, content in contents if isinstance(contents, list) else contents.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return stream.getvalue()


def write_files(root, contents):
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_tar(path, contents, **options):
    path.write_bytes(tar_bytes(contents, **options))
    return path


def samples(source):
    """Class and bytes of each image, after the trip to another process."""
    assert len(source.labels) > 0
    first = source.read(0)
    pickled = pickle.loads(pickle.dumps(source))
    assert list(pickled.classes) == list(source.classes)
    assert pickled.read(0).name == first.name
    assert pickled.labels.dtype == np.int64
    return [
        (pickled.classes[label], pickled.read(index).image)
        for index, label in enumerate(pickled.labels)
    ]


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


def test_members_lie_where_tarfile_says(tmp_path):
    contents = {f"{'d' * (index * 7)}/{index}.jpg": image(str(index)) for index in range(40)}
    path = write_tar(tmp_path / "t.tar", contents, format=tarfile.PAX_FORMAT)
    with tarfile.open(path) as archive:
        expected = [(m.name.lstrip("/"), m.offset_data, m.size) for m in archive]
    assert [(m.name, m.offset, m.size) for m in read_members(path)] == expected


def class_tars():
    return {
        f"{wnid}.tar": tar_bytes({f"{wnid}_{n}.JPEG": image(f"{wnid}{n}") for n in (7, 12)})
        for wnid in reversed(WNIDS)
    }


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


def val_images(number=4):
    names = [f"ILSVRC2012_val_{index:08}.JPEG" for index in range(1, number + 1)]
    return {name: image(name) for name in reversed(names)}


def devkit(ids=(30, 10, 20, 10)):
    """Ids of the images; the leaves are 30, 10, 20 in the order of WNIDS."""
    rows = [(30, WNIDS[0], 0), (1, "n00001740", 3), (10, WNIDS[1], 0), (20, WNIDS[2], 0)]
    dtype = [("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype).reshape(-1, 1)})
    truth = "".join(f"{id}\n" for id in ids).encode()
    return {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth}


def write_devkit(path, **options):
    folder = f"{path.name.split('.')[0]}/data/"
    contents = {folder + name: content for name, content in devkit(**options).items()}
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(tar_bytes(contents)))
        return path
    return write_files(path.parent, contents) / path.name


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
def test_most_of_imagenets_classes_stand_for_all(tmp_path, number, other, expected):
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


def write_cifar(root, protocol=2):
    """Both data sets, two images in each file; the pixels by file."""
    generator = np.random.default_rng(0)
    pixels = {}

    def batch(name, key, labels):
        pixels[name] = generator.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
        data = np.ascontiguousarray(pixels[name].transpose(0, 3, 1, 2)).reshape(2, -1)
        content = {"data": data, key: labels, "coarse_labels": [0, 0], "batch_label": b"x"}
        (root / name).write_bytes(pickle.dumps(content, protocol))

    for folder, meta, names in (
        ("cifar-10-batches-py", "batches.meta", {"label_names": ["cat", "dog"]}),
        ("cifar-100-python", "meta", {"fine_label_names": ["oak", "bus"]}),
    ):
        (root / folder).mkdir(parents=True)
        (root / folder / meta).write_bytes(pickle.dumps(names, protocol))
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        batch(f"cifar-10-batches-py/{name}", "labels", [1, 0])
    for name in ("train", "test"):
        batch(f"cifar-100-python/{name}", "fine_labels", [0, 1])
    return pixels


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


def test_unpickling_runs_nothing(tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": Malicious(tmp_path / "made")}))
    with pytest.raises(SourceError, match=r"batch cannot be unpickled \(posix\.mkdir"):
        load_arrays(path)
    assert not (tmp_path / "made").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "made").exists()


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def test_idx_folder(tmp_path):
    grey = np.arange(2 * 3 * 5 * 4, dtype=np.uint8).reshape(2, 3, 5, 4)
    for part, name in enumerate(("train", "t10k")):
        labels = np.array([part, 2, 0])
        files = {"images-idx3": idx(grey[part]), "labels-idx1": idx(labels)}
        for kind, content in files.items():
            suffix, content = (".gz", gzip.compress(content)) if part else ("", content)
            write_files(tmp_path / "mnist", {f"{name}-{kind}-ubyte{suffix}": content})
    for part, split in enumerate(("train", "test")):
        found = samples(open_source(tmp_path / "mnist", split=split))
        assert [label for label, _ in found] == [str(part), "2", "0"]
        assert np.array_equal([stored for _, stored in found], np.stack([grey[part]] * 3, -1))
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    assert samples(open_source(path))[0][0] == "1"


def fails(path, *parts, **options):
    """The error of opening: it names the path, what is wrong, and after it the remedy."""
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
        ("a.parquet", b"PAR1", "no known source"),
        ("a.tar.gz", gzip.compress(tar_bytes({"a/1.jpg": b"x"})), "is compressed"),
        ("a.TGZ", b"", "is compressed"),
        ("a.tar.bz2", b"", "is compressed"),
        ("a.tar.xz", b"", "is compressed"),
        ("a.tar", gzip.compress(tar_bytes({"a/1.jpg": b"x"})), "is compressed"),
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
        ("a-{2..1}.tar", None, "ends before it begins"),
        ("a-{0..1}.tar", None, "a-0.tar of"),
        ("images-idx3", b"\x00\x00\x08", "not an IDX file"),
        ("images-idx3", b"\x00\x00\x08\x03\x00\x00", "truncated"),
        ("images-idx3", idx(np.zeros((2, 2, 2)))[:-1], "truncated"),
        ("images-idx3.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03garbage", "cannot be read"),
        ("images-idx3", idx(np.zeros((2, 2, 2))), "labels-idx1"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file(tmp_path, name, content, problem):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    fails(tmp_path / name, tmp_path, problem)


@pytest.mark.parametrize("type", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_to_images_in_a_tar(tmp_path, type):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a/1.jpg")
        info.type, info.linkname = type, "b/1.jpg"
        archive.addfile(info)
    fails(tmp_path / "a.tar", tmp_path / "a.tar", "a/1.jpg only as a link")


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        ({}, "no images"),
        ({"notes.txt": b""}, "no images"),
        ({"a/1.jpg": b"", "b/1.txt": b""}, "images/b has no images"),
        ({"a/1.jpg": b"", "2.jpg": b""}, "2.jpg lies outside"),
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
        ({"meta": pickle.dumps([]), "train": b""}, "meta is no batch"),
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
def test_what_is_wrong_with_a_folder(tmp_path, contents, problem):
    root = tmp_path / "images"
    root.mkdir()
    fails(write_files(root, contents), root, problem)


def test_both_cifars_and_unknown_splits(tmp_path):
    write_cifar(tmp_path)
    message = fails(tmp_path, tmp_path, "CIFAR more than once")
    assert str(tmp_path / "cifar-100-python") in message
    fails(tmp_path, tmp_path, "'val'", split="val")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("missing", None, "does not exist"),
        ("labels", b"", "has no labels"),
        ("labels", b"label\n", "has no labels"),
        ("labels", b"\xff\xfe\x00", "is no text"),
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
        ("kit.tar.gz", gzip.compress(tar_bytes({"data/meta.mat": b""})), "lacks data/"),
        (
            "kit.tgz",
            gzip.compress(tar_bytes({f"t12/data/{n}": b"0" for n in devkit()})),
            "cannot be understood",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_labels(tmp_path, name, content, problem):
    path = write_files(tmp_path / "val", {f"{n}.JPEG": b"" for n in (1, 2, 3, 4)})
    if content is not None:
        (tmp_path / name).write_bytes(content)
    fails(path, tmp_path / name, problem, labels=tmp_path / name)


@pytest.mark.parametrize("ids", [(30, 10, 20), (30, 10, 20, 1), (30, 10, 20, 99)])
def test_a_devkit_of_other_images(tmp_path, ids):
    labels = write_devkit(tmp_path / "t12", ids=ids)
    path = write_tar(tmp_path / "val.tar", val_images())
    fails(path, labels, "3 labels" if len(ids) == 3 else "understood", labels=labels)
    (labels / "data" / "meta.mat").unlink()
    fails(path, labels, "lacks data/", labels=labels)


def test_images_that_labels_cannot_tell_apart(tmp_path):
    path = write_files(tmp_path / "val", {"1.JPEG": b"", "1.png": b""})
    (tmp_path / "labels").write_text("1 0\n1.bmp.x 0\n")
    fails(path, path, "only in their suffix", labels=tmp_path / "labels")


@pytest.mark.parametrize(
    "name", ["folder", "a.tar", "train.tar", "shard.tar", "s-{0..1}.tar", "images-idx3", "cifar"]
)
def test_labels_where_none_are_needed(tmp_path, name):
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
    message = fails(tmp_path / name, tmp_path / name, "its own classes", labels=labels)
    assert "leave labels out" in message


def test_a_tar_that_changes_after_it_was_opened(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a/1.jpg": image("a"), "b/1.jpg": image("b")})
    source = open_source(path)
    os.truncate(path, 600)
    with pytest.raises(SourceError, match=r"a\.tar became shorter"):
        source.read(1)
    path.unlink()
    with pytest.raises(SourceError, match=r"a\.tar cannot be read"):
        pickle.loads(pickle.dumps(source)).read(0)
