"""Compile all inner loops into the cache: python -m data_pipeline.warm_up.

Installation runs this once, so that no job has to compile them.
"""

import tempfile
from pathlib import Path

from data_pipeline import decoders
from data_pipeline.augmentation.samples import (
    Augmentations,
    ColorJitterParams,
    ErasingParams,
    RandAugmentParams,
)
from data_pipeline.batches import Crop
from data_pipeline.beton import MODE_RAW, open_beton
from data_pipeline.compiled.counter_rng import uniforms
from data_pipeline.encode import encoded
from data_pipeline.loader import ImageLoader
from data_pipeline.order import train_batches
from data_pipeline.writer import BetonWriter

SIDE = 16


def warm_up() -> None:
    """Load a tiny dataset with every augmentation; compiles what is not in the cache."""
    augmentations = Augmentations(
        RandAugmentParams(), ColorJitterParams(0.4, 0.4, 0.4, 0.1), ErasingParams(1.0)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.beton"
        with BetonWriter(path, 2) as writer:
            for label in range(2):
                writer.append(encoded(MODE_RAW, SIDE, SIDE, bytes(3 * SIDE * SIDE)), label)
        file = open_beton(path)
        indices = list(train_batches(2, 2, seed=0, epoch=0))
        crop = Crop(decoders.RANDOM_RESIZED_CROP, SIDE)
        with ImageLoader(file, seed=0, num_threads=1) as loader:
            for strong in (None, augmentations):
                batches = loader.batches(indices, crop, augmentations=augmentations, strong=strong)
                for batch in batches:
                    uniforms(batch.indices, 0, 0, 0, 1)


if __name__ == "__main__":
    warm_up()
