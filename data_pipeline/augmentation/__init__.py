"""What happens to a training image after its crop: RandAugment, colour jitter, erasing."""
