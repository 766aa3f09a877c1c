"""Counts the floating-point operations of a network."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def flops_per_image(model: nn.Module, image_size: int) -> int:
    """FLOPs of a forward pass of one image, a multiply-add counted as two.

    ``model``: on the meta device. ``image_size``: side of the image in pixels.
    """
    image = torch.empty(1, 3, image_size, image_size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(image)
    return counter.get_total_flops()
