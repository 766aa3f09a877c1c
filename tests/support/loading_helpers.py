"""Batches of an epoch with random crops and every augmentation."""

import torch

from data_pipeline import decoders
from data_pipeline.augmentation.samples import (
    Augmentations,
    ColorJitterParams,
    ErasingParams,
    RandAugmentParams,
)
from data_pipeline.batches import Crop
from data_pipeline.loader import ImageLoader
from data_pipeline.order import rank_slice, train_batches

CROP = Crop(decoders.RANDOM_RESIZED_CROP, 12, (0.08, 1.0), (0.75, 1.33), 0.5)
EVERY_AUGMENTATION = Augmentations(
    RandAugmentParams(2, 9), ColorJitterParams(0.4, 0.4, 0.4, 0.1), ErasingParams(0.5, fill="noise")
)


def epoch_batches(
    file, world_size, num_threads, start, *, epoch=3, augmentations=EVERY_AUGMENTATION
):
    """Images and labels of each step of an epoch, concatenated over the workers."""
    per_rank = []
    for rank in range(world_size):
        indices = train_batches(
            file.num_samples,
            4,
            seed=5,
            epoch=epoch,
            local=rank_slice(4, 1, rank, world_size),
            start=start,
        )
        with ImageLoader(file, seed=5, num_threads=num_threads) as loader:
            per_rank.append(list(loader.batches(indices, CROP, epoch, augmentations=augmentations)))
    return [
        (torch.cat([b.images for b in parts]), torch.cat([b.labels for b in parts]))
        for parts in zip(*per_rank, strict=True)
    ]
