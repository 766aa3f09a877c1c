"""Files of weights: the head of a safetensors file, and the pickles and zip records of a .pth."""

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from fuzz.json_mutators import mutate_json
from fuzz.mutators import IntegerField, mutate_bytes, mutate_integer
from fuzz.outcomes import Call
from fuzz.target import Mutate, Target
from safetensors.torch import save
from support.spec_contents import spec_content, write_stripes

from service.models.build import build_model, build_with_weights
from service.spec.errors import BadInputError
from service.spec.loading import parse_job
from service.spec.sections import Weights

MODEL, NUM_CLASSES = "cifar:tiny_cnn", 4
LENGTH_BYTES = 8
# Opcodes of pickles that import, call and build, and those that repeat what is in memory.
OPCODES = (
    b"csys\nexit\n", b"cos\nsystem\n(S'touch fuzzed'\ntR", b"cbuiltins\neval\n", b"R", b"b", b"o",
    b"\x81", b"\x92", b"Q", b"P1\n", b"2", b"0", b"1", b"(", b"t", b"]", b"}", b"e", b"u", b"h\x00",
    b"q\x00", b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f", b"\x94",
    b"\x80\x05", b".",
)  # fmt: skip


def safetensors_target(folder: Path) -> Target:
    """A safetensors file as the weights of a student."""
    state = _state()
    card = {"architecture": MODEL, "num_classes": "4", "classes": json.dumps(list("abcd"))}
    seeds = [save(state), save(state, {"format": "pt", **card})]
    return _target(folder, "weights.safetensors", seeds, _mutate_safetensors)


def pth_target(folder: Path) -> Target:
    """A state dict as torch saves it, now and in its old format, alone and in a checkpoint."""
    state = _state()
    seeds = []
    for content in (state, {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}):
        for is_zip in (True, False):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=is_zip)
            seeds.append(stream.getvalue())
    return _target(folder, "weights.pth", seeds, _mutate_pth)


def _state() -> dict[str, Any]:
    torch.manual_seed(0)
    return dict(build_model(MODEL, NUM_CLASSES).state_dict())


def _target(folder: Path, name: str, seeds: Sequence[bytes], mutate: Mutate) -> Target:
    for split in ("train", "val"):
        write_stripes(folder / f"{split}.beton", 64, seed=1)
    path = folder / name
    weights = Weights(source=str(path))
    student = {"model": MODEL, "weights": {"source": str(path)}}
    content = spec_content(folder, folder / "runs", student=student)
    names = (str(path), "student.weights")

    def calls(data: bytes) -> Iterator[Call]:
        path.write_bytes(data)
        build = partial(build_with_weights, "student", MODEL, NUM_CLASSES, weights)
        yield Call("parse_job", partial(parse_job, content), (BadInputError,), names)
        yield Call("build_with_weights", build, (BadInputError,), names)

    return Target(folder, seeds, mutate, calls)


def _mutate_safetensors(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The length of the header, the header as JSON with the length that fits, or any bytes."""
    kind = random.randrange(4)
    if kind == 0:
        return mutate_bytes(random, data, others)
    if kind == 1:
        return mutate_integer(random, data, [IntegerField(0, LENGTH_BYTES)])
    end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    header = mutate_json(random, data[LENGTH_BYTES:end], ())
    return len(header).to_bytes(LENGTH_BYTES, "little") + header + data[end:]


def _mutate_pth(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A record of the archive, which is then written anew; its directory; or any bytes."""
    if random.random() < 0.3:
        return mutate_bytes(random, data, others)
    if not data.startswith(b"PK"):
        return _mutate_pickle(random, data)
    if random.random() < 0.3:
        return mutate_integer(random, data, _directory_fields(data))
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        infos = old.infolist()
        changed = random.choice([infos[0], random.choice(infos)])
        for info in infos:
            content = old.read(info)
            if info is changed:
                info, content = _changed_record(random, info, content)
            if random.random() > 0.02:
                new.writestr(info, content)
    return stream.getvalue()


def _changed_record(
    random: Random, info: zipfile.ZipInfo, content: bytes
) -> tuple[zipfile.ZipInfo, bytes]:
    kind = random.randrange(5)
    if kind == 0:
        info.compress_type = zipfile.ZIP_DEFLATED
        # A megabyte of zeros takes a thousand bytes.
        content += bytes(random.choice((0, 1 << 20, 1 << 26)))
    elif kind == 1:
        info.filename = random.choice(
            ("../outside", "/outside", "a/" * 100, "archive/data.pkl", "x")
        )
    else:
        content = _mutate_pickle(random, content)
    return info, content


def _mutate_pickle(random: Random, data: bytes) -> bytes:
    """Opcodes at random places, or any bytes."""
    if random.random() < 0.5:
        return mutate_bytes(random, data)
    for _ in range(random.randint(1, 3)):
        position = random.randint(0, len(data))
        opcode = random.choice(OPCODES) * random.choice((1, 1, 1, 1000))
        data = data[:position] + opcode + data[position + random.choice((0, len(opcode))) :]
    return data


def _directory_fields(data: bytes) -> list[IntegerField]:
    """Sizes, positions and methods in the headers of a zip archive and in its directory."""
    fields = []
    for signature, layout in (
        (b"PK\3\4", ((6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))),
        (b"PK\1\2", ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4))),
        (b"PK\5\6", ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2))),
        (b"PK\6\6", ((4, 8), (24, 8), (32, 8), (40, 8), (48, 8))),
        (b"PK\6\7", ((4, 4), (8, 8), (16, 4))),
    ):
        start = data.find(signature)
        while start >= 0:
            fields += [IntegerField(start + offset, size) for offset, size in layout]
            start = data.find(signature, start + 1)
    return fields
