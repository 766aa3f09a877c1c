"""How one image is stored, against Pillow."""

import io

import numpy as np
import pytest
from PIL import Image
from support.image_makers import jpeg_bytes, smooth_image

from data_pipeline.encode import Encoding, encode_image
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


def test_exif_rotation_is_applied():
    image = smooth_image(32, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = encode_image(SourceSample("x", jpeg_bytes(image, exif=exif)), Encoding("raw"))
    assert (encoded.width, encoded.height) == (20, 32)


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
