"""Augmentations of a training image after its crop: RandAugment, color jitter, random erasing."""
