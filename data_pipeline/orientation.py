"""How an image must be turned to be shown upright. Nothing else of its metadata is used."""

import contextlib
import re

from PIL import Image
from PIL.Image import Transpose

EXIF_ORIENTATION = 0x0112
# An attribute or an element.
XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])\b""")
# Of the EXIF standard: 6 is an image that must be rotated by 90 degrees clockwise.
_TRANSPOSES = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def upright(image: Image.Image) -> Transpose | None:
    """What turns the image upright; None if it is, or if its metadata cannot be read.

    The orientation is that of EXIF, and of XMP where EXIF has none. Pillow's exif_transpose also
    writes all other tags again, and fails at damaged ones.
    """
    orientation: object = None
    # Damaged tags raise errors of many types.
    with contextlib.suppress(Exception):
        orientation = image.getexif().get(EXIF_ORIENTATION) or _xmp_orientation(image)
    return _TRANSPOSES.get(orientation) if isinstance(orientation, int) else None


def _xmp_orientation(image: Image.Image) -> int | None:
    """Also where Pillow's own search finds none, as in single quotes."""
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    match = XMP_ORIENTATION.search(xmp.encode() if isinstance(xmp, str) else xmp)
    return int(match[1]) if match else None
