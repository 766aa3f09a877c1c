"""The digests of images, against published values and sha256sum."""

import gzip
import io
import subprocess

import numpy as np
import pytest
from support.image_makers import converted, jpeg_bytes, smooth_image

from data_pipeline.beton import digest, open_beton
from data_pipeline.encode import Encoding


def first_bits(data):
    """By the command of the operating system, whose order of digits is that of the bytes."""
    done = subprocess.run(["sha256sum"], input=data, capture_output=True, check=True)
    return int.from_bytes(bytes.fromhex(done.stdout.decode()[:16]), "little")


@pytest.mark.parametrize(
    ("data", "published"),
    [
        # FIPS 180-4's examples.
        (b"", "e3b0c44298fc1c14"),
        (b"abc", "ba7816bf8f01cfea"),
        (b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "248d6a61d20638b8"),
    ],
)
def test_published_values(data, published):
    assert digest(data) == int.from_bytes(bytes.fromhex(published), "little") == first_bits(data)


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
        assert file.digests["stored"][sample] == first_bits(data[position : position + size])
    assert sorted(file.digests["source"].tolist()) == sorted(map(first_bits, contents))


def test_images_without_files_have_the_digests_of_their_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 4), np.uint8)
    head = b"\x00\x00\x08\x03" + np.array(pixels.shape, ">u4").tobytes()
    (tmp_path / "t-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + pixels.tobytes()))
    head = b"\x00\x00\x08\x01" + np.array([3], ">u4").tobytes()
    (tmp_path / "t-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + bytes([0, 1, 0])))
    converted(tmp_path / "t-images-idx3-ubyte.gz", tmp_path / "out.beton")

    file = open_beton(tmp_path / "out.beton")
    expected = [first_bits(np.repeat(gray[:, :, None], 3, axis=2).tobytes()) for gray in pixels]
    assert sorted(file.digests["source"].tolist()) == sorted(expected)
