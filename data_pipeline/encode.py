"""How one source image becomes the bytes that a .beton stores."""

import io
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from data_pipeline.beton import MODE_JPEG, MODE_RAW
from data_pipeline.sources import SourceSample

EXIF_ORIENTATION = 0x0112


class Encoding(NamedTuple):
    """How images are stored. ``max_side`` and ``short_side`` are in pixels, None for no limit."""

    format: Literal["jpeg", "raw"] = "jpeg"
    quality: int = 90
    max_side: int | None = None
    short_side: int | None = None


class EncodedImage(NamedTuple):
    """What is written: ``mode`` is the .beton's code for JPEG or raw pixels."""

    mode: int
    width: int
    height: int
    data: bytes


class UnreadableImageError(ValueError):
    """An image that cannot be decoded; the message names it."""


def encode_image(sample: SourceSample, encoding: Encoding) -> EncodedImage:
    """Encode a sample; a JPEG that needs no change keeps its bytes.

    Raises:
        UnreadableImageError: an image that cannot be decoded in full.
    """
    try:
        if isinstance(sample.image, bytes):
            image: Image.Image = Image.open(io.BytesIO(sample.image))
            # A full decode, so that a file that breaks off is found now and not in training.
            image.load()
        else:
            image = Image.fromarray(sample.image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(
            f"{sample.name} cannot be decoded ({error}); replace or remove the file"
        ) from error
    size = _target_size(image.width, image.height, encoding)
    if (
        isinstance(sample.image, bytes)
        and encoding.format == "jpeg"
        and _is_plain_jpeg(image, size)
    ):
        return EncodedImage(MODE_JPEG, image.width, image.height, sample.image)
    pixels = _to_rgb(image)
    width, height = _target_size(*pixels.size, encoding)
    if (width, height) != pixels.size:
        pixels = pixels.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    if encoding.format == "raw":
        return EncodedImage(MODE_RAW, width, height, pixels.tobytes())
    stream = io.BytesIO()
    pixels.save(stream, "JPEG", quality=encoding.quality)
    return EncodedImage(MODE_JPEG, width, height, stream.getvalue())


def _is_plain_jpeg(image: Image.Image, target: tuple[int, int]) -> bool:
    """Whether the file's own bytes show the right pixels at the right size to any decoder."""
    upright = image.getexif().get(EXIF_ORIENTATION, 1) in (0, 1)
    return image.format == "JPEG" and image.mode == "RGB" and upright and image.size == target


def _to_rgb(image: Image.Image) -> Image.Image:
    """Eight-bit RGB, upright, transparency on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow would clip 16-bit grey instead of scaling it.
        grey: NDArray[np.uint32] = np.asarray(image, dtype=np.uint32)
        image = Image.fromarray((grey >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")


def _target_size(width: int, height: int, encoding: Encoding) -> tuple[int, int]:
    """Size after the limits; images are only ever made smaller."""
    scale = 1.0
    if encoding.max_side is not None:
        scale = min(scale, encoding.max_side / max(width, height))
    if encoding.short_side is not None:
        scale = min(scale, encoding.short_side / min(width, height))
    if scale == 1.0:
        return width, height
    return max(1, round(width * scale)), max(1, round(height * scale))
