"""ShuffleNets for images of about 32 x 32 pixels, as Tian et al. use them (CRD, arXiv 1910.10699).

The stem is a 1x1 convolution without stride or pooling. Weights begin as torch draws them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.models.layers import conv_norm, conv_norm_relu, depthwise_norm

STEM_WIDTH = 24
V1_GROUPS = 3
V1_STAGES = ((240, 4), (480, 8), (960, 4))
"""Channels and number of blocks of each stage."""
V2_STAGES = ((116, 4), (232, 8), (464, 4))
V2_FEATURES = 1024


class GroupedBlock(nn.Module):
    """A bottleneck of version 1: its 1x1 convolutions see a group of the channels each.

    With stride 2, the input is appended to the output, halved, where it is added otherwise.
    """

    def __init__(self, num_inputs: int, num_outputs: int, stride: int):
        super().__init__()
        self.stride = stride
        num_added = num_outputs - num_inputs if stride == 2 else num_outputs
        width = num_added // 4
        # The stem has too few channels to be split.
        self.groups = 1 if num_inputs == STEM_WIDTH else V1_GROUPS
        self.reduce = nn.Sequential(*conv_norm_relu(num_inputs, width, groups=self.groups))
        self.expand = nn.Sequential(
            *depthwise_norm(width, stride),
            nn.ReLU(inplace=True),
            *conv_norm(width, num_added, groups=V1_GROUPS),
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W']."""
        hidden = self.expand(shuffle_channels(self.reduce(images), self.groups))
        if self.stride == 2:
            halved = F.avg_pool2d(images, 3, stride=2, padding=1)
            return F.relu(torch.cat([hidden, halved], dim=1))
        return F.relu(hidden + images)


class SplitBlock(nn.Module):
    """A block of version 2 that changes the second half of the channels."""

    def __init__(self, num_channels: int):
        super().__init__()
        self.branch = _branch(num_channels // 2, num_channels // 2, stride=1)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W]."""
        kept, changed = images.chunk(2, dim=1)
        return shuffle_channels(torch.cat([kept, self.branch(changed)], dim=1), 2)


class DownBlock(nn.Module):
    """A block of version 2 that halves height and width, in two branches."""

    def __init__(self, num_inputs: int, num_outputs: int):
        super().__init__()
        width = num_outputs // 2
        self.short_branch = nn.Sequential(
            *depthwise_norm(num_inputs, stride=2), *conv_norm_relu(num_inputs, width)
        )
        self.branch = _branch(num_inputs, width, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H / 2, W / 2]."""
        return shuffle_channels(torch.cat([self.short_branch(images), self.branch(images)], 1), 2)


class ShuffleNetV1(nn.Module):
    """Zhang et al., arXiv 1707.01083, with 3 groups."""

    def __init__(self, num_classes: int):
        super().__init__()
        layers = conv_norm_relu(3, STEM_WIDTH)
        num_channels = STEM_WIDTH
        for width, num_blocks in V1_STAGES:
            for index in range(num_blocks):
                layers.append(GroupedBlock(num_channels, width, stride=2 if index == 0 else 1))
                num_channels = width
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(num_channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, K]."""
        return self.fc(self.features(images).mean(dim=(2, 3)))


class ShuffleNetV2(nn.Module):
    """Ma et al., arXiv 1807.11164, of width 1."""

    def __init__(self, num_classes: int):
        super().__init__()
        layers = conv_norm_relu(3, STEM_WIDTH)
        num_channels = STEM_WIDTH
        for width, num_blocks in V2_STAGES:
            layers.append(DownBlock(num_channels, width))
            layers += [SplitBlock(width) for _ in range(num_blocks - 1)]
            num_channels = width
        self.features = nn.Sequential(*layers, *conv_norm_relu(num_channels, V2_FEATURES))
        self.fc = nn.Linear(V2_FEATURES, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, K]."""
        return self.fc(self.features(images).mean(dim=(2, 3)))


def shuffle_channels(images: Tensor, num_groups: int) -> Tensor:
    """The first channel of each of ``num_groups`` groups, then the second ones, and so on.

    [B, C, H, W] to [B, C, H, W].
    """
    return torch.unflatten(images, 1, (num_groups, -1)).transpose(1, 2).flatten(1, 2)


def _branch(num_inputs: int, num_outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *conv_norm_relu(num_inputs, num_outputs),
        *depthwise_norm(num_outputs, stride),
        *conv_norm_relu(num_outputs, num_outputs),
    )
