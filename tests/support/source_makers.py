"""Sources in the formats that users download, built for tests."""

import gzip
import io
import pickle
import tarfile

import numpy as np
from scipy.io import savemat

WNIDS = ["n01440764", "n01443537", "n01484850"]


def image(name):
    """Bytes that are unique to this image."""
    return f"pixels of {name}".encode() * (1 + len(name) % 50)


def tar_bytes(contents, format=tarfile.GNU_FORMAT):
    """A tar of the files by name; the content None makes a folder."""
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
    """Class and bytes of each image, read from a pickled copy of the source."""
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


def class_tars():
    return {
        f"{wnid}.tar": tar_bytes({f"{wnid}_{n}.JPEG": image(f"{wnid}{n}") for n in (7, 12)})
        for wnid in reversed(WNIDS)
    }


def val_images(number=4):
    names = [f"ILSVRC2012_val_{index:08}.JPEG" for index in range(1, number + 1)]
    return {name: image(name) for name in reversed(names)}


def devkit(ids=(30, 10, 20, 10)):
    """The devkit's files, with the images' ids; the ids of WNIDS are 30, 10, 20."""
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


def write_cifar(root, protocol=2):
    """CIFAR-10 and CIFAR-100, two images per file; returns the pixels by file."""
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


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()
