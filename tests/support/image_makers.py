"""Images, class folders and .beton files for tests of the data pipeline."""

import io

import numpy as np
from PIL import Image

from data_pipeline.convert import convert
from data_pipeline.encode import Encoding
from data_pipeline.selection import Selection
from data_pipeline.sources import open_source


def smooth_image(width, height, seed=0):
    """A photograph-like image: JPEG keeps it nearly unchanged."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def noisy_image(width, height, seed=0):
    """Random pixels: all frequencies in all channels, where decoders differ most."""
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def jpeg_bytes(image, quality=95, **options):
    """A JPEG file of the image."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, **options)
    return stream.getvalue()


def write_folder(root, num_classes=3, num_per_class=4):
    """Class folders with JPEGs of different sizes."""
    for label in range(num_classes):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        for index in range(num_per_class):
            image = smooth_image(40 + 3 * index, 30 + label, seed=100 * label + index)
            (folder / f"{index}.JPEG").write_bytes(jpeg_bytes(image))
    return root


def converted(source_path, path, encoding=None, selection=None, workers=1, max_undecodable=0):
    """Convert a folder; returns the manifest."""
    return convert(
        open_source(source_path),
        path,
        encoding or Encoding(),
        selection or Selection(),
        workers,
        max_undecodable,
    )
