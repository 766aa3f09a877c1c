"""MobileNets of the distillation literature: half of version 2 for small images, version 1.

They differ from those of other libraries, which have a ReLU6 where these have a ReLU.
"""

from torch import Tensor, nn

from service.models.layers import (
    conv_norm,
    conv_norm_relu,
    depthwise_norm,
    init_classifier,
    init_convolutions,
)

HALF_STEM, HALF_FEATURES = 16, 1280
HALF_STAGES = (
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)
"""Expansion, channels, number of blocks and stride of each stage."""

V1_STEM = 32
V1_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
"""Channels and stride of each block."""


class InvertedResidual(nn.Module):
    """A depthwise convolution on ``expansion`` times as many channels, without a ReLU behind."""

    def __init__(self, num_inputs: int, num_outputs: int, expansion: int, stride: int):
        super().__init__()
        width = expansion * num_inputs
        self.layers = nn.Sequential(
            *conv_norm_relu(num_inputs, width),
            *depthwise_norm(width, stride),
            nn.ReLU(inplace=True),
            *conv_norm(width, num_outputs),
        )
        self.has_shortcut = stride == 1 and num_inputs == num_outputs

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W']."""
        hidden = self.layers(images)
        return images + hidden if self.has_shortcut else hidden


class HalfMobileNetV2(nn.Module):
    """Sandler et al., arXiv 1801.04381, half as wide, for images of about 32 x 32 pixels.

    As Tian et al. use it (CRD, arXiv 1910.10699): the second stage has stride 1, the first one
    expands too (by 1), and there is no dropout.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        num_channels = HALF_STEM
        layers = conv_norm_relu(3, num_channels, 3, stride=2)
        for expansion, width, num_blocks, stride in HALF_STAGES:
            for index in range(num_blocks):
                step = stride if index == 0 else 1
                layers.append(InvertedResidual(num_channels, width, expansion, step))
                num_channels = width
        self.features = nn.Sequential(*layers, *conv_norm_relu(num_channels, HALF_FEATURES))
        self.fc = nn.Linear(HALF_FEATURES, num_classes)
        init_convolutions(self)
        init_classifier(self.fc)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, K]."""
        return self.fc(self.features(images).mean(dim=(2, 3)))


class MobileNetV1(nn.Module):
    """Howard et al., arXiv 1704.04861, table 1, for ImageNet; weights begin as torch draws them."""

    def __init__(self, num_classes: int):
        super().__init__()
        num_channels = V1_STEM
        layers = conv_norm_relu(3, num_channels, 3, stride=2)
        for width, stride in V1_BLOCKS:
            layers += [*depthwise_norm(num_channels, stride), nn.ReLU(inplace=True)]
            layers += conv_norm_relu(num_channels, width)
            num_channels = width
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(num_channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, K]."""
        return self.fc(self.features(images).mean(dim=(2, 3)))
