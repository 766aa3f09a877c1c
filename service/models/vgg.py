"""VGG networks for images of about 32 x 32 pixels.

From Simonyan and Zisserman, arXiv 1409.1556, with BatchNorm after each convolution and one linear
layer for three, as Tian et al. use them (CRD, arXiv 1910.10699).
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from service.models.layers import init_classifier, init_convolutions

VGG8_STAGES = ((64,), (128,), (256,), (512,), (512,))
VGG13_STAGES = ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))
"""Channels of each convolution, by stage."""

NUM_POOLED = 3
"""Stages whose outputs are halved in height and width."""
LARGE_IMAGE = 64
"""Side in pixels from which on one more stage is: the last one still sees 4 x 4 pixels or more."""


class Vgg(nn.Module):
    """Five stages of 3x3 convolutions; ``widths``: channels of each convolution, by stage."""

    def __init__(self, widths: Sequence[Sequence[int]], num_classes: int):
        super().__init__()
        inputs = (3, *(stage[-1] for stage in widths[:-1]))
        self.stages = nn.ModuleList(map(_stage, inputs, widths))
        self.pool_of_large_images = _PoolOfLargeImages()
        self.fc = nn.Linear(widths[-1][-1], num_classes)
        init_convolutions(self)
        init_classifier(self.fc)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, K]."""
        hidden = images
        for index, stage in enumerate(self.stages):
            hidden = stage(hidden)
            if index < NUM_POOLED:
                hidden = F.max_pool2d(hidden, 2)
            elif index == NUM_POOLED:
                hidden = self.pool_of_large_images(hidden, images.shape[2])
        return self.fc(hidden.mean(dim=(2, 3)))


class _PoolOfLargeImages(nn.Module):
    """A layer, and no branch in the network, which can then be traced."""

    def forward(self, hidden: Tensor, image_size: int) -> Tensor:
        return F.max_pool2d(hidden, 2) if image_size >= LARGE_IMAGE else hidden


def _stage(num_inputs: int, widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for num_outputs in widths:
        layers += [
            nn.Conv2d(num_inputs, num_outputs, 3, padding=1),
            nn.BatchNorm2d(num_outputs),
            nn.ReLU(inplace=True),
        ]
        num_inputs = num_outputs
    return nn.Sequential(*layers)
