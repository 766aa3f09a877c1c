"""How one image is stored, against Pillow."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from support.image_makers import jpeg_bytes, smooth_image

from data_pipeline import encode
from data_pipeline.encode import Encoding, UnreadableImageError, encode_image
from data_pipeline.sources import SourceSample


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P"])
def test_other_color_modes_become_rgb(mode):
    image = smooth_image(32, 20).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "JPEG" if mode in ("L", "CMYK") else "PNG")
    encoded = encode_image(SourceSample("x", stream.getvalue()), Encoding("raw"))
    expected = np.asarray(Image.open(io.BytesIO(stream.getvalue())).convert("RGB"))
    assert np.array_equal(np.frombuffer(encoded.data, np.uint8).reshape(20, 32, 3), expected)


def test_sixteen_bit_gray_is_scaled_not_clipped():
    gray = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024).astype(np.uint16)
    stream = io.BytesIO()
    Image.fromarray(gray).save(stream, "PNG")
    encoded = encode_image(SourceSample("x", stream.getvalue()), Encoding("raw"))
    found = np.frombuffer(encoded.data, np.uint8).reshape(8, 8, 3)
    assert np.array_equal(found[:, :, 0], (gray // 256).astype(np.uint8))


@pytest.mark.parametrize("form", ["PGM", "TIFF"])
def test_sixteen_bit_gray_of_other_formats(form):
    gray = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    stream = io.BytesIO()
    if form == "PGM":
        stream.write(b"P5 8 8 65535\n" + gray.astype(">u2").tobytes())
    else:
        Image.fromarray(gray).save(stream, "TIFF")
    assert np.array_equal(pixels_of(stream.getvalue())[:, :, 0], (gray // 256).astype(np.uint8))


def test_sixteen_bit_tiff_whose_zero_is_white():
    gray = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    stream = io.BytesIO()
    # The tag with which a TIFF says so; the pixels are stored as they are.
    Image.fromarray(gray).save(stream, "TIFF", tiffinfo={262: 0})
    expected = ((65535 - gray.astype(int)) // 256).astype(np.uint8)
    assert np.array_equal(pixels_of(stream.getvalue())[:, :, 0], expected)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_known_range_are_refused(mode):
    stream = io.BytesIO()
    smooth_image(8, 8).convert("L").convert(mode).save(stream, "TIFF")
    with pytest.raises(UnreadableImageError, match="x has 32-bit or signed pixels"):
        pixels_of(stream.getvalue())


def pixels_of(data):
    encoded = encode_image(SourceSample("x", data), Encoding("raw"))
    shape = (encoded.height, encoded.width, 3)
    return np.frombuffer(encoded.data, np.uint8).reshape(shape)


# Of the EXIF standard: where row 0 and column 0 of the stored image are to be seen.
UPRIGHT = {
    0: lambda stored: stored,
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],
    7: lambda stored: stored.swapaxes(0, 1)[::-1, ::-1],
    8: lambda stored: stored.swapaxes(0, 1)[::-1],
    9: lambda stored: stored,
}


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation, form):
    image, exif, stream = smooth_image(32, 20), Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(stream, form, exif=exif, lossless=True)
    assert np.array_equal(pixels_of(stream.getvalue()), UPRIGHT[orientation](np.asarray(image)))


XMPS = {
    "XMP": b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>',
    "XMP in single quotes": b"<x:xmpmeta><rdf:Description tiff:Orientation = '6'/></x:xmpmeta>",
    "XMP's element": b"<rdf:Description><tiff:Orientation>6</tiff:Orientation></rdf:Description>",
}


@pytest.mark.parametrize("form", ["jpeg", "raw"])
@pytest.mark.parametrize("metadata", ["EXIF", *XMPS])
def test_jpeg_that_must_be_turned_is_not_stored_as_it_is(metadata, form):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if metadata == "EXIF" else {"xmp": XMPS[metadata]}
    jpeg = jpeg_bytes(smooth_image(32, 20), **options)
    encoded = encode_image(SourceSample("x", jpeg), Encoding(form))
    assert (encoded.width, encoded.height) == (20, 32)


def exif_of(*entries):
    """EXIF whose tags have types and values as given, damaged or not."""
    fields = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + fields + bytes(4)


ODD_EXIF = {
    "rational with denominator 0": exif_of((0x011A, 5, 1, 0), (0x0112, 3, 1, 3)),
    "offset past the end": exif_of((0x010F, 2, 1000, 0xFFFFFFF0), (0x0112, 3, 1, 3)),
    "unknown type": exif_of((0x010F, 99, 1, 0), (0x0112, 3, 1, 3)),
    "sub-directory that is itself": exif_of((0x8769, 4, 1, 8), (0x0112, 3, 1, 3)),
}


@pytest.mark.parametrize("kind", ODD_EXIF)
def test_odd_tags_do_not_hinder_the_orientation(kind):
    image = smooth_image(32, 20)
    found = pixels_of(jpeg_bytes(image, exif=ODD_EXIF[kind])).astype(int)
    expected = np.asarray(Image.open(io.BytesIO(jpeg_bytes(image))).convert("RGB"), int)
    assert np.array_equal(found, expected[::-1, ::-1])


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*", b"Exif\0\0" + b"\xff" * 50])
def test_exif_that_cannot_be_read_counts_as_none(exif):
    assert pixels_of(jpeg_bytes(smooth_image(32, 20), exif=exif)).shape == (20, 32, 3)


ERRORS = [
    *(struct.error, TypeError, ZeroDivisionError, RuntimeError, MemoryError, RecursionError),
    *(KeyError, IndexError, AttributeError, OverflowError, EOFError, SyntaxError),
]


@pytest.mark.parametrize("error", ERRORS)
def test_whatever_a_decoder_raises_is_the_fault_of_the_image(monkeypatch, error):
    def fail(image):
        raise error("first line\nsecond line")

    stream = io.BytesIO()
    smooth_image(8, 8).save(stream, "PNG")
    monkeypatch.setattr(Image.Image, "convert", lambda image, mode: fail(image))
    with pytest.raises(UnreadableImageError, match=r"^folder/a\.png cannot be decoded") as caught:
        encode_image(SourceSample("folder/a.png", stream.getvalue()), Encoding())
    assert "\n" not in str(caught.value)


def test_program_in_postscript_is_not_run(monkeypatch, tmp_path):
    """Pillow gives it to Ghostscript, whatever the name of its file."""
    interpreter = tmp_path / "gs"
    interpreter.write_text(f"#!/bin/sh\ntouch {tmp_path}/has_run\n")
    interpreter.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n"
    for form in ("jpeg", "raw"):
        with pytest.raises(UnreadableImageError, match=r"x\.jpg is not an image; replace"):
            encode_image(SourceSample("x.jpg", program), Encoding(form))
    assert not (tmp_path / "has_run").exists()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_white_in_every_strip(monkeypatch, mode):
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (50, 20, 4), np.uint8)).convert("RGBA")
    image = image.quantize(64) if mode == "P" else image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    monkeypatch.setattr(encode, "ROWS_PER_STRIP", 16)
    encoded = encode_image(SourceSample("x", stream.getvalue()), Encoding("raw"))
    found = np.frombuffer(encoded.data, np.uint8).reshape(50, 20, 3)
    with Image.open(io.BytesIO(stream.getvalue())) as stored:
        rgba = np.asarray(stored.convert("RGBA"), np.float64)
    alpha = rgba[:, :, 3:] / 255
    expected = alpha * rgba[:, :, :3] + (1 - alpha) * 255
    assert np.abs(found - expected).max() <= 1


def test_limits_shrink_and_never_enlarge():
    sample = SourceSample("x", jpeg_bytes(smooth_image(80, 40)))
    for encoding, size in (
        (Encoding(max_side=40), (40, 20)),
        (Encoding(short_side=20), (40, 20)),
        (Encoding(max_side=800), (80, 40)),
    ):
        encoded = encode_image(sample, encoding)
        assert (encoded.width, encoded.height) == size
        assert Image.open(io.BytesIO(encoded.data)).size == size
