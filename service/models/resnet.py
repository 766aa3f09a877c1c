"""Residual networks of three stages for images of about 32 x 32 pixels.

ResNets of depth 6n + 2 are from He et al., arXiv 1512.03385, section 4.2 (the stages of
those with suffix x4 are four times as wide). Wide ResNets of depth 6n + 4 are from Zagoruyko and
Komodakis, arXiv 1605.07146.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from service.models.layers import conv3x3, init_convolutions


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, normalized after each convolution."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int):
        super().__init__()
        self.conv1 = conv3x3(num_inputs, num_outputs, stride)
        self.bn1 = nn.BatchNorm2d(num_outputs)
        self.conv2 = conv3x3(num_outputs, num_outputs)
        self.bn2 = nn.BatchNorm2d(num_outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_inputs != num_outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(num_inputs, num_outputs, 1, stride, bias=False),
                nn.BatchNorm2d(num_outputs),
            )

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W']."""
        hidden = F.relu(self.bn1(self.conv1(images)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(images))


class WideBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, normalized before each convolution."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(num_inputs)
        self.conv1 = conv3x3(num_inputs, num_outputs, stride)
        self.bn2 = nn.BatchNorm2d(num_outputs)
        self.conv2 = conv3x3(num_outputs, num_outputs)
        self.projection: nn.Module | None = None
        if stride != 1 or num_inputs != num_outputs:
            self.projection = nn.Conv2d(num_inputs, num_outputs, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W']."""
        hidden = F.relu(self.bn1(images))
        shortcut = images if self.projection is None else self.projection(hidden)
        return self.conv2(F.relu(self.bn2(self.conv1(hidden)))) + shortcut


class ResNet(nn.Module):
    """Three stages of basic blocks; ``widths``: channels of the stem and of each stage."""

    def __init__(self, num_blocks: int, widths: tuple[int, int, int, int], num_classes: int):
        super().__init__()
        self.conv1 = conv3x3(3, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = _stages(BasicBlock, num_blocks, widths)
        self.fc = nn.Linear(widths[3], num_classes)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, K]."""
        hidden = self.stages(F.relu(self.bn1(self.conv1(images))))
        return self.fc(hidden.mean(dim=(2, 3)))


class WideResNet(nn.Module):
    """Three stages of wide blocks, with a final normalization before pooling."""

    def __init__(self, num_blocks: int, width: int, num_classes: int):
        super().__init__()
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = conv3x3(3, widths[0])
        self.stages = _stages(WideBlock, num_blocks, widths)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, K]."""
        hidden = F.relu(self.bn1(self.stages(self.conv1(images))))
        return self.fc(hidden.mean(dim=(2, 3)))


def _stages(
    block: type[BasicBlock] | type[WideBlock], num_blocks: int, widths: tuple[int, int, int, int]
) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for stage in range(3):
        for index in range(num_blocks):
            num_inputs = widths[stage] if index == 0 else widths[stage + 1]
            stride = 2 if stage > 0 and index == 0 else 1
            blocks.append(block(num_inputs, widths[stage + 1], stride))
    return nn.Sequential(*blocks)
