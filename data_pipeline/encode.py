"""Encodes one source image to the bytes that a .beton stores."""

import ctypes
import io
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from data_pipeline.beton import MODE_JPEG, MODE_RAW, PAGE_SIZE, digest
from data_pipeline.beton_checks import MAX_PIXELS
from data_pipeline.native import library
from data_pipeline.orientation import upright
from data_pipeline.sources import SourceSample

# A .beton stores heights and widths in 16 bits.
MAX_SIDE = 65535
# The tag of TIFF that says whether 0 is black or white.
TIFF_PHOTOMETRIC = 0x0106
PIXELS_PER_SUM = 1 << 20
ROWS_PER_STRIP = 256
# Those of sources.IMAGE_SUFFIXES; for others Pillow may start a program, such as Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "GIF", "TIFF", "PPM", "AVIF")


class Encoding(NamedTuple):
    """How images are stored.

    ``quality``: JPEG quality, 1 to 100. ``max_side`` and ``short_side``: limits of the longer and
    of the shorter side in pixels, None for no limit.
    """

    format: Literal["jpeg", "raw"] = "jpeg"
    quality: int = 90
    max_side: int | None = None
    short_side: int | None = None


class EncodedImage(NamedTuple):
    """An image as it is written.

    ``mode`` is MODE_JPEG or MODE_RAW, ``width`` and ``height`` are in pixels. ``stored_digest`` is
    that of ``data``, ``source_digest`` that of the image's bytes, or pixels, in its source.
    """

    mode: int
    width: int
    height: int
    data: bytes
    stored_digest: int
    source_digest: int


class UnreadableImageError(ValueError):
    """An image that cannot be decoded; the message names it."""


def encode_image(sample: SourceSample, encoding: Encoding) -> EncodedImage:
    """Encode a sample; a JPEG that needs no change keeps its bytes.

    Raises:
        UnreadableImageError: an image that cannot be decoded in full, or is too large to store.
    """
    try:
        image = _encode_source(sample.image, encoding)
        if len(image.data) > PAGE_SIZE:
            raise _page_error(len(image.data))
        return image
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{sample.name} {error}") from None
    except UnidentifiedImageError as error:
        fault = "is not an image" if len(sample.image) else "is empty"
        raise UnreadableImageError(f"{sample.name} {fault}; replace or remove the file") from error
    except Exception as error:
        # Decoders raise many types; whatever it is, it is the fault of this image.
        fault = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(
            f"{sample.name} cannot be decoded ({fault}); replace or remove the file"
        ) from error


def _encode_source(source: bytes | NDArray[np.uint8], encoding: Encoding) -> EncodedImage:
    """Encode the bytes of a file, or pixels; raises whatever the decoder does."""
    if not isinstance(source, bytes):
        _check_size(source.shape[1], source.shape[0], encoding)
        return _encode(Image.fromarray(source), encoding, source.tobytes())
    if encoding.format == "jpeg":
        # Most images take this path, without Pillow and mostly without the GIL.
        size = _simple_jpeg_size(source)
        if size is not None and size == _target_size(*size, encoding):
            return encoded(MODE_JPEG, *size, source)
    with Image.open(io.BytesIO(source), formats=FORMATS) as image:
        # Before any pixel is decoded: the header alone decides.
        if image.format != "JPEG":
            _check_num_decoded(*image.size)
        _check_size(*image.size, encoding)
        if image.width * image.height > MAX_PIXELS:
            _draft(image, encoding)
        if encoding.format == "jpeg" and _is_plain_jpeg(image, encoding):
            if not decodes(source, *image.size):
                raise ValueError("the image data is damaged or ends too early")
            return encoded(MODE_JPEG, *image.size, source)
        image.load()
        return _encode(image, encoding, source)


def encoded(mode: int, width: int, height: int, data: bytes) -> EncodedImage:
    """A source's bytes, stored as they are; ``width`` and ``height`` in pixels."""
    data_digest = digest(data)
    return EncodedImage(mode, width, height, data, data_digest, data_digest)


def pixel_sums(image: EncodedImage) -> NDArray[np.uint64]:
    """Of red, green and blue: the sums of the values, then of their squares, [2, 3].

    Raises:
        ValueError: an image that does not decode to its size.
    """
    if image.mode == MODE_RAW:
        if len(image.data) != 3 * image.width * image.height:
            raise ValueError("the number of pixels is not that of the size")
        return _raw_sums(np.frombuffer(image.data, np.uint8).reshape(-1, 3))
    sums = np.zeros((2, 3), np.uint64)
    status = library().pixels_measure_jpeg(
        *_jpeg_arguments(image.data, image.width, image.height),
        sums.ctypes.data_as(ctypes.c_void_p),
    )
    if status != 0:
        raise ValueError("the image data is damaged or ends too early")
    return sums


def _raw_sums(pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """``pixel_sums`` of pixels [N, 3]; some at a time, for they take 16 times the memory."""
    sums = np.zeros((2, 3), np.uint64)
    for start in range(0, len(pixels), PIXELS_PER_SUM):
        part = pixels[start : start + PIXELS_PER_SUM].astype(np.uint64)
        sums += np.stack([part.sum(axis=0), (part**2).sum(axis=0)])
    return sums


def _simple_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG that decodes and can be stored as it is; None for other data."""
    size = (ctypes.c_int64 * 2)()
    if library().pixels_describe_jpeg(data, ctypes.c_int64(len(data)), size) != 0:
        return None
    return size[1], size[0]


def decodes(data: bytes, width: int, height: int) -> bool:
    """Whether this JPEG decodes, checked with the library that the loader uses."""
    return bool(library().pixels_check_jpeg(*_jpeg_arguments(data, width, height)) == 0)


def _jpeg_arguments(data: bytes, width: int, height: int) -> tuple[object, ...]:
    size = ctypes.c_int64
    return data, size(len(data)), size(height), size(width)


def _is_plain_jpeg(image: Image.Image, encoding: Encoding) -> bool:
    """Whether the file's bytes can be stored as they are: every decoder shows the same pixels."""
    return (
        image.format == "JPEG"
        and image.mode in ("RGB", "L")
        and upright(image) is None
        and image.size == _target_size(*image.size, encoding)
    )


def _encode(image: Image.Image, encoding: Encoding, source: bytes) -> EncodedImage:
    pixels = _to_rgb(image)
    width, height = _target_size(*pixels.size, encoding)
    if (width, height) != pixels.size:
        pixels = pixels.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    source_digest = digest(source)
    if encoding.format == "raw":
        data = pixels.tobytes()
        return EncodedImage(MODE_RAW, width, height, data, digest(data), source_digest)
    stream = io.BytesIO()
    pixels.save(stream, "JPEG", quality=encoding.quality)
    data = stream.getvalue()
    return EncodedImage(MODE_JPEG, width, height, data, digest(data), source_digest)


def _draft(image: Image.Image, encoding: Encoding) -> None:
    """Let a JPEG of very many pixels be decoded to fewer, but twice as many to a side as are kept.

    Raises:
        UnreadableImageError: still too many for the memory.
    """
    width, height = _target_size(*image.size, encoding)
    image.draft(None, (2 * width, 2 * height))
    _check_num_decoded(*image.size)


def _check_num_decoded(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            f"has {width} x {height} pixels, more than the {MAX_PIXELS:,} that are decoded at "
            "once; make it smaller"
        )


def _check_size(width: int, height: int, encoding: Encoding) -> None:
    """Check that an image of this size, in pixels, can be stored.

    Raises:
        UnreadableImageError: too many pixels, or bytes, after the limits.
    """
    width, height = _target_size(width, height, encoding)
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise UnreadableImageError(
            f"has {width} x {height} pixels, more than {MAX_PIXELS:,} or {MAX_SIDE:,} to a side; "
            "set --max-side"
        )
    if encoding.format == "raw" and 3 * width * height > PAGE_SIZE:
        raise _page_error(3 * width * height)


def _page_error(num_bytes: int) -> UnreadableImageError:
    return UnreadableImageError(
        f"takes {num_bytes:,} bytes, more than the {PAGE_SIZE:,} of a page; set --max-side, or use "
        "--format jpeg"
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    """Eight-bit RGB, upright, transparency on white.

    Raises:
        UnreadableImageError: pixels whose black and white are not known.
    """
    # Pillow reads 16-bit PGM files as 32-bit pixels.
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if image.mode in ("F", "I") and not is_16_bit:
        # Whether 1.0 or 255 is white is not in the file.
        raise UnreadableImageError(
            "has 32-bit or signed pixels, whose range is not known; save it with 8 or 16 bits"
        )
    # Pillow inverts such images of 8 bits, but not of 16.
    is_white_zero = is_16_bit and getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == 0
    turn = upright(image)
    if turn is not None:
        image = image.transpose(turn)
    if is_16_bit:
        # Pillow would clip 16-bit gray instead of scaling it.
        gray: NDArray[np.uint32] = np.asarray(image, dtype=np.uint32)
        gray = 65535 - gray if is_white_zero else gray
        image = Image.fromarray((gray >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """RGB pixels of an image with transparency; some rows at a time, for they take much memory."""
    pixels = Image.new("RGB", image.size)
    for top in range(0, image.height, ROWS_PER_STRIP):
        box = (0, top, image.width, min(top + ROWS_PER_STRIP, image.height))
        strip = image.crop(box).convert("RGBA")
        background = Image.new("RGBA", strip.size, "white")
        pixels.paste(Image.alpha_composite(background, strip).convert("RGB"), box)
    return pixels


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
