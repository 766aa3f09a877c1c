"""A .beton of a few kilobytes with its manifest, as a conversion writes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from support.image_makers import jpeg_bytes, smooth_image

from data_pipeline.beton import MODE_JPEG, MODE_RAW, BetonFile, open_beton
from data_pipeline.encode import encoded
from data_pipeline.manifest import FORMAT, manifest_path
from data_pipeline.writer import BetonWriter

# Instead of 8 MiB, which the file would be large for.
PAGE_BYTES = 4096
SIZE, NUM_CLASSES = 16, 2


def write_dataset(path: Path, num_images: int, num_jpegs: int) -> None:
    """Square images, the first ``num_jpegs`` as JPEG and the others raw."""
    with BetonWriter(path, num_images, PAGE_BYTES) as writer:
        for index in range(num_images):
            image, mode = smooth_image(SIZE, SIZE, seed=index), MODE_RAW
            data = image.tobytes()
            if index < num_jpegs:
                data, mode = jpeg_bytes(image), MODE_JPEG
            writer.append(encoded(mode, SIZE, SIZE, data), index % NUM_CLASSES)
    manifest_path(path).write_text(json.dumps(fitting_manifest(open_beton(path))))


def fitting_manifest(file: BetonFile) -> dict[str, Any]:
    """The manifest that a conversion would have written for the tables of a file."""
    labels, counts = np.unique(file.labels, return_counts=True)
    num_per_class = [0] * NUM_CLASSES
    for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
        if 0 <= label < NUM_CLASSES:
            num_per_class[label] = count
    names = [f"class{label}" for label in range(NUM_CLASSES)]
    return {
        "format": FORMAT,
        "fingerprint": file.fingerprint,
        "num_samples": file.num_samples,
        "num_bytes": file.path.stat().st_size,
        "classes": names,
        "class_names": names,
        "num_per_class": num_per_class,
        "height_px": [SIZE, SIZE],
        "width_px": [SIZE, SIZE],
        "short_side_px": [SIZE, SIZE, SIZE],
        "encoding": {"format": "jpeg", "quality": 90, "max_side": None, "short_side": None},
        "selection": {"per_class": None, "seed": 0, "hold_out": 0, "part": "remaining"},
        "pixels": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "num_images": 2},
        "left_out": [],
    }
