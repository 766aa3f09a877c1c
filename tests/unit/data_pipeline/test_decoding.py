"""The C library's Huffman decoder, partial decoding and resizing against Pillow and torchvision."""

import ctypes
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.image_makers import jpeg_bytes, noisy_image, smooth_image
from torchvision.transforms.v2 import functional

from data_pipeline.native import library
from data_pipeline.native.self_check import HEIGHT, JPEG, WIDTH, check_decoder

OK, DAMAGED = 0, -1
SIZES = [(1, 1), (7, 5), (8, 8), (16, 17), (33, 64), (95, 61)]


def address(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def jpeg_arguments(data, height, width):
    return data, *(ctypes.c_int64(value) for value in (len(data), height, width))


def decode(data, height, width):
    """Status and pixels of a whole JPEG."""
    out = np.zeros((height, width, 3), np.uint8)
    status = library().pixels_decode_jpeg(*jpeg_arguments(data, height, width), address(out))
    return status, out


def view(data, height, width, box, resized, window, mirrored=False):
    """Status and pixels of a part of a JPEG."""
    out = np.zeros((window[2], window[3], 3), np.uint8)
    numbers = np.array([*box, *resized, *window], np.int64)
    status = library().pixels_view_jpeg(
        *jpeg_arguments(data, height, width), address(numbers), int(mirrored), address(out)
    )
    return status, out


def two_views(data, height, width, views, mirrored):
    """Status and pixels of two parts of a JPEG; ``views``: (box, resized, window) of each."""
    outs = [np.zeros((window[2], window[3], 3), np.uint8) for _, _, window in views]
    numbers = np.array([[*box, *resized, *window] for box, resized, window in views], np.int64)
    status = library().pixels_view_jpeg_twice(
        *jpeg_arguments(data, height, width), address(numbers), *mirrored, *map(address, outs)
    )
    return status, outs


def pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"quality": 100, "subsampling": 0},
        {"quality": 5},
        {"optimize": True},
        {"progressive": True},
        {"restart_marker_blocks": 3},
        {"keep_rgb": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [smooth_image, noisy_image])
def test_whole_images_equal_pillows_bit_for_bit(make, size, options):
    data = jpeg_bytes(make(*size, seed=3), **options)
    status, pixels = decode(data, size[1], size[0])
    assert status == OK
    assert np.array_equal(pixels, pillow(data))


def test_gray_jpegs_become_rgb():
    data = jpeg_bytes(noisy_image(40, 30).convert("L"))
    status, pixels = decode(data, 30, 40)
    assert status == OK
    assert np.array_equal(pixels, pillow(data))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_part_of_an_image_equals_that_part_of_the_whole(data):
    subsampling = data.draw(st.integers(0, 2))
    width, height = data.draw(st.integers(9, 120)), data.draw(st.integers(9, 120))
    jpeg = jpeg_bytes(noisy_image(width, height, seed=width), subsampling=subsampling)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows, columns = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    # Resized to its own size, a box is a plain copy of the pixels.
    box, window = (top, left, rows, columns), (0, 0, rows, columns)
    status, pixels = view(jpeg, height, width, box, (rows, columns), window)
    assert status == OK
    assert np.array_equal(pixels, pillow(jpeg)[top : top + rows, left : left + columns])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_two_views_of_an_image_equal_those_that_are_cut_one_by_one(data):
    width, height = data.draw(st.integers(9, 120)), data.draw(st.integers(9, 120))
    options = {"subsampling": data.draw(st.integers(0, 2)), "progressive": data.draw(st.booleans())}
    jpeg = jpeg_bytes(noisy_image(width, height, seed=width), **options)
    views, mirrored = [], data.draw(st.tuples(st.booleans(), st.booleans()))
    for size in (16, 30):
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        rows = data.draw(st.integers(1, height - top))
        columns = data.draw(st.integers(1, width - left))
        views.append(((top, left, rows, columns), (size, size), (0, 0, size, size)))
    status, found = two_views(jpeg, height, width, views, mirrored)
    assert status == OK
    for pixels, one, flipped in zip(found, views, mirrored, strict=True):
        assert np.array_equal(pixels, view(jpeg, height, width, *one, flipped)[1])


def test_two_views_of_a_damaged_image_are_refused():
    views = [((0, 0, 20, 20), (8, 8), (0, 0, 8, 8))] * 2
    jpeg = jpeg_bytes(noisy_image(40, 24))
    assert two_views(jpeg, 24, 40, views, (0, 0))[0] == OK
    assert two_views(jpeg, 25, 40, views, (0, 0))[0] == DAMAGED
    assert two_views(jpeg[: len(jpeg) // 4], 24, 40, views, (0, 0))[0] == DAMAGED


@pytest.mark.parametrize("resized", [(24, 24), (50, 37), (90, 130), (7, 9)])
def test_resizing_equals_torchvisions_with_antialias(resized):
    jpeg = jpeg_bytes(noisy_image(95, 61, seed=1))
    top, left, rows, columns = 5, 11, 50, 70
    status, pixels = view(jpeg, 61, 95, (top, left, rows, columns), resized, (0, 0, *resized))
    assert status == OK
    image = torch.from_numpy(pillow(jpeg).copy()).permute(2, 0, 1)
    # The reference uses float: torchvision's uint8 path has the same rounding as this one.
    expected = functional.resized_crop(
        image.float(), top, left, rows, columns, list(resized), antialias=True
    )
    difference = np.abs(pixels - expected.permute(1, 2, 0).numpy())
    assert difference.max() <= 1.51
    assert difference.mean() < 0.4


def test_window_of_a_resized_image_and_its_mirror():
    jpeg = jpeg_bytes(smooth_image(95, 61))
    whole_box, resized = (0, 0, 61, 95), (40, 62)
    _, whole = view(jpeg, 61, 95, whole_box, resized, (0, 0, *resized))
    _, window = view(jpeg, 61, 95, whole_box, resized, (3, 17, 30, 31))
    _, mirrored = view(jpeg, 61, 95, whole_box, resized, (3, 17, 30, 31), mirrored=True)
    assert np.array_equal(window, whole[3:33, 17:48])
    assert np.array_equal(mirrored, window[:, ::-1])


@pytest.mark.parametrize(
    ("size", "resized"), [((40, 60), (17, 23)), ((2000, 60), (1, 23)), ((40, 2000), (17, 1))]
)
def test_flat_colors_are_not_changed(size, resized):
    pixels = np.full((*size, 3), (250, 3, 128), np.uint8)
    numbers = np.array([0, 0, *size, *resized, 0, 0, *resized], np.int64)
    out = np.zeros((*resized, 3), np.uint8)
    status = library().pixels_view_raw(
        address(pixels), ctypes.c_int64(size[1]), address(numbers), 0, address(out)
    )
    assert status == OK
    assert (out == (250, 3, 128)).all()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_every_truncation_is_detected(options):
    data = jpeg_bytes(noisy_image(24, 20), **options)
    for length in range(0, len(data) - 2, 7):
        assert decode(data[:length], 20, 24)[0] == DAMAGED
        arguments = jpeg_arguments(data[:length], 20, 24)
        assert library().pixels_check_jpeg(*arguments) == DAMAGED
    assert library().pixels_check_jpeg(*jpeg_arguments(data, 20, 24)) == OK


def test_an_image_of_another_size_is_damaged():
    assert decode(jpeg_bytes(smooth_image(24, 20)), 20, 25)[0] == DAMAGED


@pytest.mark.parametrize(("height", "status"), [(8192, OK), (8193, DAMAGED)])
def test_no_more_pixels_than_the_limit_are_decoded(height, status):
    # A progressive JPEG of a few bytes, of the size that a caller believes, would need gigabytes.
    data = jpeg_bytes(Image.new("L", (8192, height)))
    assert library().pixels_check_jpeg(*jpeg_arguments(data, height, 8192)) == status


def with_scans(data, num_scans):
    """A progressive JPEG whose first DC refinement, which may be repeated, makes ``num_scans``."""
    scans = data.split(b"\xff\xda")
    # A scan's header ends with the first and last coefficient and the two bit positions.
    refinement = next(
        at for at, scan in enumerate(scans[1:], 1) if scan[scan[1] - 3 : scan[1]] == b"\0\0\x10"
    )
    repeated = [scans[refinement]] * (num_scans - (len(scans) - 1))
    return b"\xff\xda".join([*scans[:refinement], *repeated, *scans[refinement:]])


def test_scans_without_end_are_not_decoded():
    data = jpeg_bytes(noisy_image(24, 20), progressive=True)
    status, pixels = decode(with_scans(data, 50), 20, 24)
    assert status == OK
    assert np.array_equal(pixels, pillow(data))
    assert decode(with_scans(data, 51), 20, 24)[0] == DAMAGED


def test_fill_bytes_before_a_stuffed_zero_do_not_end_the_scan():
    data = jpeg_bytes(noisy_image(64, 33))
    start = data.index(b"\xff\xda")
    at = data.index(b"\xff\0", start + 14)
    filled = data[:at] + b"\xff\xff\xff" + data[at:]
    status, pixels = decode(filled, 33, 64)
    assert status == OK
    assert np.array_equal(pixels, pillow(data))
    # Without the rest there is no marker, and Pillow finds the same.
    cut = filled[: at + 40].replace(b"\xff\xd9", b"")
    assert decode(cut, 33, 64)[0] == DAMAGED
    assert library().pixels_check_jpeg(*jpeg_arguments(cut, 33, 64)) == DAMAGED
    with pytest.raises(OSError, match="truncated"):
        pillow(cut)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_data_that_passes_the_check_can_be_decoded(seed, progressive):
    generator = np.random.default_rng(seed)
    data = bytearray(jpeg_bytes(noisy_image(40, 24, seed % 5), progressive=progressive))
    for position in generator.integers(0, len(data), generator.integers(1, 9)):
        data[position] = generator.integers(0, 256)
    passes = library().pixels_check_jpeg(*jpeg_arguments(bytes(data), 24, 40)) == OK
    statuses = {decode(bytes(data), 24, 40)[0]}
    statuses.add(view(bytes(data), 24, 40, (9, 9, 15, 20), (8, 8), (0, 0, 8, 8))[0])
    if passes:
        assert statuses == {OK}


@pytest.mark.parametrize("kind", ["whole", "ends in the middle", "marker in the middle"])
def test_measured_sums_equal_those_of_the_pixels(kind):
    """Also where the fast decoder gives up after some rows, and libjpeg begins again."""
    data = jpeg_bytes(noisy_image(95, 61))
    middle = len(data) // 2
    if kind != "whole":
        data = data[:middle] + b"\xff\xd9" + (data[middle:] if kind[0] == "m" else b"")
    sums = np.full((2, 3), 7, np.uint64)
    assert library().pixels_measure_jpeg(*jpeg_arguments(data, 61, 95), address(sums)) == OK
    pixels = pillow(data).reshape(-1, 3).astype(np.uint64)
    assert np.array_equal(sums, [pixels.sum(axis=0), (pixels**2).sum(axis=0)])


def test_decoder_that_disagrees_is_not_used(caplog):
    """Given another image to agree with, the self-check leaves decoding to libjpeg."""
    data = jpeg_bytes(noisy_image(95, 61))
    expected = pillow(data)
    other = jpeg_bytes(smooth_image(WIDTH, HEIGHT))
    try:
        assert not check_decoder(library(), expected=other)
        (message,) = caplog.messages
        assert "libjpeg, whose own decoder is used" in message
        status, found = decode(data, 61, 95)
        assert status == OK
        assert np.array_equal(found, expected)
    finally:
        assert check_decoder(library())
    assert len(caplog.messages) == 1
    assert np.array_equal(decode(data, 61, 95)[1], expected)


def test_self_check_decodes_what_pillow_does():
    status, found = decode(JPEG, HEIGHT, WIDTH)
    assert status == OK
    assert np.array_equal(found, pillow(JPEG))
