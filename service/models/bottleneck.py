"""The ResNet of 50 layers for images of about 32 x 32 pixels.

From He et al., arXiv 1512.03385, table 1, with a stem for small images: a 3x3 convolution without
stride or pooling, as Tian et al. use it (CRD, arXiv 1910.10699).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from service.models.layers import conv_norm, conv_norm_relu, init_convolutions

EXPANSION = 4
"""Channels of a block's output for each one within it."""
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Channels within the blocks, number of blocks and stride of each stage."""


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, with a shortcut."""

    def __init__(self, num_inputs: int, width: int, stride: int):
        super().__init__()
        num_outputs = EXPANSION * width
        self.layers = nn.Sequential(
            *conv_norm_relu(num_inputs, width),
            *conv_norm_relu(width, width, 3, stride),
            *conv_norm(width, num_outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if num_inputs != num_outputs:
            self.shortcut = nn.Sequential(*conv_norm(num_inputs, num_outputs, stride=stride))

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W']."""
        return F.relu(self.layers(images) + self.shortcut(images))


class BottleneckResNet(nn.Module):
    """Four stages of bottlenecks: 50 layers."""

    def __init__(self, num_classes: int):
        super().__init__()
        num_channels = STAGES[0][0]
        layers = conv_norm_relu(3, num_channels, 3)
        for width, num_blocks, stride in STAGES:
            for index in range(num_blocks):
                layers.append(Bottleneck(num_channels, width, stride if index == 0 else 1))
                num_channels = EXPANSION * width
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(num_channels, num_classes)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, K]."""
        return self.fc(self.features(images).mean(dim=(2, 3)))
