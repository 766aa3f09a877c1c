"""What happens to a training image after its crop: RandAugment, color jitter, erasing."""
