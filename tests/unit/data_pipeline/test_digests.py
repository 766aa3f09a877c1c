"""The digests of images, against published values and the specification of XXH64 in Python."""

import gzip
import io

import numpy as np
import pytest
from support.image_makers import converted, jpeg_bytes, smooth_image

from data_pipeline.beton import digest, open_beton
from data_pipeline.encode import Encoding

P1, P2, P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P4, P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
MASK = 2**64 - 1


def rotated(value, count):
    return ((value << count) | (value >> (64 - count))) & MASK


def step(lane, word):
    return rotated((lane + word * P2) & MASK, 31) * P1 & MASK


def specified(data):
    """XXH64 with seed 0, step by step as its specification says."""
    position, lanes = 0, [(P1 + P2) & MASK, P2, 0, -P1 & MASK]
    while position + 32 <= len(data):
        for i in range(4):
            word = int.from_bytes(data[position + 8 * i : position + 8 * i + 8], "little")
            lanes[i] = step(lanes[i], word)
        position += 32
    value = P5
    if len(data) >= 32:
        turns = zip(lanes, (1, 7, 12, 18), strict=True)
        value = sum(rotated(lane, count) for lane, count in turns) & MASK
        for lane in lanes:
            value = ((value ^ step(0, lane)) * P1 + P4) & MASK
    value = (value + len(data)) & MASK
    while position + 8 <= len(data):
        value ^= step(0, int.from_bytes(data[position : position + 8], "little"))
        value, position = (rotated(value, 27) * P1 + P4) & MASK, position + 8
    if position + 4 <= len(data):
        value ^= int.from_bytes(data[position : position + 4], "little") * P1 & MASK
        value, position = (rotated(value, 23) * P2 + P3) & MASK, position + 4
    for byte in data[position:]:
        value = rotated(value ^ (byte * P5 & MASK), 11) * P1 & MASK
    value = (value ^ (value >> 33)) * P2 & MASK
    value = (value ^ (value >> 29)) * P3 & MASK
    return value ^ (value >> 32)


@pytest.mark.parametrize(
    ("data", "published"),
    [
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_published_values(data, published):
    assert digest(data) == published == specified(data)


def test_every_length_is_hashed_as_specified():
    data = np.random.default_rng(0).integers(0, 256, 200, np.uint8).tobytes()
    for length in range(200):
        assert digest(data[:length]) == specified(data[:length])


@pytest.mark.parametrize("encoding", [Encoding(), Encoding("raw"), Encoding(max_side=20)])
def test_each_sample_has_the_digests_of_its_source_and_of_its_stored_bytes(tmp_path, encoding):
    contents = []
    for index in range(4):
        image, stream = smooth_image(40 + index, 30, seed=index), io.BytesIO()
        image.save(stream, "PNG")
        contents.append(jpeg_bytes(image) if index % 2 else stream.getvalue())
    (tmp_path / "images" / "a").mkdir(parents=True)
    for index, content in enumerate(contents):
        (tmp_path / "images" / "a" / f"{index}.jpg").write_bytes(content)
    path = tmp_path / "out.beton"
    converted(tmp_path / "images", path, encoding)
    file, data = open_beton(path), path.read_bytes()

    for sample, (_, _, _, position, size) in enumerate(file.storage(np.arange(4))):
        assert file.digests["stored"][sample] == specified(data[position : position + size])
    assert sorted(file.digests["source"].tolist()) == sorted(map(specified, contents))


def test_images_without_files_have_the_digests_of_their_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 4), np.uint8)
    head = b"\x00\x00\x08\x03" + np.array(pixels.shape, ">u4").tobytes()
    (tmp_path / "t-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + pixels.tobytes()))
    head = b"\x00\x00\x08\x01" + np.array([3], ">u4").tobytes()
    (tmp_path / "t-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + bytes([0, 1, 0])))
    converted(tmp_path / "t-images-idx3-ubyte.gz", tmp_path / "out.beton")

    file = open_beton(tmp_path / "out.beton")
    expected = [specified(np.repeat(gray[:, :, None], 3, axis=2).tobytes()) for gray in pixels]
    assert sorted(file.digests["source"].tolist()) == sorted(expected)
