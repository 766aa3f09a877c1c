"""Files of weights that are damaged, or made to harm, are one problem in a spec, no more."""

import copy
import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch

from service.spec import inert_pickle
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.spec.tensor_info import UnreadableWeightsError
from service.spec.weights_cards import check_weights_cards
from service.spec.weights_file import read_weights_file

BIAS = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
ENTRY = f'"fc.bias": {json.dumps(BIAS)}'


def safetensors(header, data=bytes(16)):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + data


def archive(pickled, *others, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in others:
            file.writestr(name, content)
    return stream.getvalue()


def encrypted(content):
    """The archive of one entry with the flag of encryption, in the entry's and the directory's."""
    content = bytearray(content)
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    return bytes(content)


def nested_references(depth):
    """A dictionary that has each inner one twice: 2 ** depth paths, and few bytes."""
    inner = {}
    for _ in range(depth):
        inner = {"a": inner, "b": inner}
    return pickle.dumps(inner, protocol=2)


def legacy_claim(num_elements):
    """An old file of torch.save whose storage claims another size than it has."""
    stream = io.BytesIO()
    torch.save({"fc.bias": torch.zeros(4)}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()[:-24] + struct.pack("<q", num_elements) + bytes(16)


def torch_file(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


CALL = b"\x80\x02cos\nsystem\n(X\x0d\x00\x00\x00touch createdtR."

HEADERS = {
    "list": safetensors([1, 2]),
    "deep": safetensors(b'{"a":' + b"[" * 200_000),
    "claims gigabytes": struct.pack("<Q", 10**10) + b"{}",
    "negative": struct.pack("<q", -1) + b"{}",
    "overlap": safetensors({"fc.bias": BIAS, "b": BIAS}),
    "gap": safetensors({"fc.bias": {**BIAS, "data_offsets": [4, 20]}}, bytes(20)),
    "twice": safetensors(f"{{{ENTRY}, {ENTRY}}}".encode()),
    "truncated": safetensors({"fc.bias": BIAS}, bytes(8)),
    "more bytes": safetensors({"fc.bias": BIAS}, bytes(24)),
    "other shape": safetensors({"fc.bias": {**BIAS, "shape": [5]}}),
    "huge shape": safetensors({"fc.bias": {**BIAS, "shape": [10**18] * 100_000}}),
    "negative shape": safetensors({"fc.bias": {**BIAS, "shape": [-2, -2]}}),
    "shape that is no list": safetensors({"fc.bias": {**BIAS, "shape": 4}}),
    "type that is no string": safetensors({"fc.bias": {**BIAS, "dtype": ["F32"]}}),
    "no entry": safetensors({"fc.bias": 3}),
    "metadata": safetensors({"__metadata__": {"a": {"b": 1}}, "fc.bias": BIAS}),
    "no tensors": safetensors({}, b""),
    "empty": b"",
}
PICKLES = {
    "encrypted": encrypted(archive(pickle.dumps({}))),
    "legacy with unknown numbers": legacy_claim(4).replace(b"FloatStorage", b"XloatStorage"),
    "zip bomb": archive(pickle.dumps({}), ("archive/data/0", bytes(10**7)), compression=8),
    "compressed": archive(pickle.dumps({}), compression=zipfile.ZIP_DEFLATED),
    "many entries": archive(pickle.dumps({}), *((f"archive/{i:0300}", b"") for i in range(25_000))),
    "memo of 2 ** 32": archive(b"\x80\x02}r\xff\xff\xff\xff."),
    "long pickle": archive(b"\x80\x02" + b"N0" * 30_000 + b"}."),
    "endless line": b"\x80\x02cos\n" + b"a" * 10**6,
    "claims 2 GB of text": b"\x80\x02X\xff\xff\xff\x7f",
    "decimal digits": b"\x80\x02L" + b"7" * 5_000 + b"L\n.",
    "long number": archive(b"\x80\x02\x8b\xff\xff\xff\x7fa."),
    "bytearray": archive(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R."),
    "references": archive(nested_references(60)),
    "deep key": archive(b"\x80\x02}N" + b"\x85" * 30_000 + b"K\x01s."),
    "call": archive(CALL),
    "call without an archive": CALL,
    "legacy claims gigabytes": legacy_claim(10**12),
    "legacy claims less than none": legacy_claim(-8),
    "truncated": torch_file({"fc.bias": torch.zeros(400)})[:-300],
    "a text": b"weights of a network",
    "empty": b"",
    "a long name": torch_file({"x" * 1000: torch.zeros(4)}),
}
FILES = [
    *((f"{name}.safetensors", content) for name, content in HEADERS.items()),
    *((f"{name}.pth", content) for name, content in PICKLES.items()),
]


@pytest.mark.parametrize(("name", "content"), FILES, ids=[name for name, _ in FILES])
def test_files_that_cannot_be_used_are_one_problem(
    name, content, make_content, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    # So that a pickle that is too long need not be one of seconds.
    monkeypatch.setattr(inert_pickle, "MAX_OPERATIONS", 20_000)
    path = tmp_path / name
    path.write_bytes(content)
    teacher = {"model": "cifar:resnet8", "weights": {"source": str(path)}}
    with pytest.raises(BadInputError) as caught:
        parse_spec(make_content(teacher=teacher))
    (problem,) = caught.value.problems
    assert problem.where == "teacher.weights.source"
    assert name in problem.wrong
    assert len(str(problem)) < 500
    assert "\n" not in str(problem)
    assert not (tmp_path / "created").exists()


@pytest.mark.parametrize("head", [b"\x80\x02cos\na", b"\x80\x02X\xff\xff\xff\x7f"])
def test_sparse_file_is_read_up_to_a_limit(head, tmp_path):
    """A terabyte, of a line without an end or of a text of 2 GB."""
    path = tmp_path / "weights.pth"
    path.write_bytes(head)
    os.truncate(path, 1 << 40)
    tracemalloc.start()
    with pytest.raises(UnreadableWeightsError, match=r"more than 32,000,000 bytes, too long"):
        read_weights_file(path)
    assert tracemalloc.get_traced_memory()[1] < 200_000_000
    tracemalloc.stop()


KINDS = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
    "page": (b"\n <!DOCTYPE html><html></html>", "download the file"),
    "gzip": (gzip.compress(torch_file({"fc.bias": torch.zeros(4)}), mtime=0), "decompress it"),
    "nothing": (b"", "copy or make the file again"),
    "zip of a file": (archive(b"").replace(b"data.pkl", b"data.pth"), "unpack it"),
    "pickle": (pickle.dumps({"fc.bias": torch.zeros(4)}), "not written by torch.save"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_other_kinds_of_files_are_named(kind, suffix, tmp_path):
    content, expected = KINDS[kind]
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UnreadableWeightsError) as caught:
        read_weights_file(path)
    assert expected in f"{caught.value.wrong}; {caught.value.remedy}"


def test_tar_is_to_be_unpacked(tmp_path):
    (tmp_path / "a").write_bytes(bytes(1000))
    with tarfile.open(tmp_path / "weights.pth.tar", "w") as tar:
        tar.add(tmp_path / "a", "weights.pth")
    with pytest.raises(UnreadableWeightsError) as caught:
        read_weights_file(tmp_path / "weights.pth.tar")
    assert (caught.value.wrong, caught.value.remedy[:9]) == ("is a tar archive", "unpack it")


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("protocol", [1, 2, 4])
def test_what_is_beside_the_weights_may_be_long(is_zip, protocol, tmp_path):
    """A history of losses, large numbers, numpy's values, and a tuple around all of it."""
    history = [0.5 * number for number in range(100_000)]
    content = ({"fc.bias": torch.zeros(4)}, {"losses": history, "n": 10**30, "b": b"x" * 300})
    torch.save(
        content,
        tmp_path / "weights.safetensors",
        _use_new_zipfile_serialization=is_zip,
        pickle_protocol=protocol,
    )
    assert list(read_weights_file(tmp_path / "weights.safetensors").tensors) == ["0.fc.bias"]


@pytest.mark.parametrize("is_zip", [True, False])
def test_whole_model_is_named_by_its_class(is_zip, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(
        UnreadableWeightsError, match=r"of the class torch\.nn\.modules\.linear\.Lin"
    ):
        read_weights_file(path)


@pytest.mark.parametrize("kind", ["deflated", "overlapping"])
def test_archives_that_unpack_to_more_than_they_are_are_refused(kind, tmp_path):
    """Both have a network's tensors; torch.load would read the first."""
    with zipfile.ZipFile(io.BytesIO(torch_file({"fc.bias": torch.zeros(10**5)}))) as saved:
        compression = zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED
        with zipfile.ZipFile(tmp_path / "weights.pth", "w", compression) as file:
            for name in saved.namelist():
                file.writestr(name, saved.read(name))
            if kind == "overlapping":
                (entry,) = (e for e in file.filelist if e.filename.endswith("data/0"))
                for number in range(1, 9):
                    again = copy.copy(entry)
                    again.filename = entry.filename[:-1] + str(number)
                    file.filelist.append(again)
    with pytest.raises(UnreadableWeightsError, match=r"is compressed: its .* bytes unpack to"):
        read_weights_file(tmp_path / "weights.pth")


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_only_regular_files_are_opened(kind, make_content, tmp_path):
    path = Path("/dev/zero") if kind == "device" else tmp_path / f"{kind}.pth"
    if kind == "fifo":
        os.mkfifo(path)
    if kind == "folder":
        path.mkdir()
    teacher = {"model": "cifar:resnet8", "weights": {"source": str(path)}}
    with pytest.raises(BadInputError, match="is not a regular file; give the path of a weights"):
        parse_spec(make_content(teacher=teacher))


@pytest.mark.parametrize("text", ["[" * 100_000, "{}", '[1, "a"]'])
def test_cards_that_are_none_say_nothing(text, make_content, tmp_path):
    """What another program wrote under the names of a student's card."""
    metadata = {"architecture": "cifar:resnet8", "num_classes": text, "classes": text}
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors({"__metadata__": metadata, "fc.bias": BIAS}))
    spec = parse_spec(
        make_content(teacher={"model": "cifar:resnet8", "weights": {"source": str(path)}})
    )
    assert list(check_weights_cards(spec.student, spec.teacher, ("a", "b", "c", "d"))) == []


@pytest.mark.parametrize("is_zip", [True, False])
def test_names_and_shapes_are_those_that_were_saved(is_zip, tmp_path):
    """Without torch, of both formats; other objects are left out."""
    inner = {"conv.weight": torch.zeros(2, 3, dtype=torch.half), "conv.bias": torch.zeros(2)}
    content = {"model": inner, "steps": torch.tensor(3), "epoch": 1, 7: torch.zeros(1), "l": [1]}
    torch.save(content, tmp_path / "a", _use_new_zipfile_serialization=is_zip)
    file = read_weights_file(tmp_path / "a")
    assert {name: (info.dtype, info.shape) for name, info in file.tensors.items()} == {
        "model.conv.weight": ("float16", (2, 3)),
        "model.conv.bias": ("float32", (2,)),
        "steps": ("int64", ()),
        "7": ("float32", (1,)),
    }
    assert file.containers == {
        "": ["steps", "7"],
        "model.": ["model.conv.weight", "model.conv.bias"],
    }
