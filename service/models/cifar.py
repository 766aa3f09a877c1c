"""Small networks for images of about 32 x 32 pixels, common in the distillation literature.

ResNets of depth 6n + 2 are from He et al., arXiv 1512.03385, section 4.2 (the stages of
those with suffix x4 are four times as wide). Wide ResNets of depth 6n + 4 are from Zagoruyko and
Komodakis, arXiv 1605.07146.
"""

import re

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, normalized after each convolution."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int):
        super().__init__()
        self.conv1 = _conv3x3(num_inputs, num_outputs, stride)
        self.bn1 = nn.BatchNorm2d(num_outputs)
        self.conv2 = _conv3x3(num_outputs, num_outputs)
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
        self.conv1 = _conv3x3(num_inputs, num_outputs, stride)
        self.bn2 = nn.BatchNorm2d(num_outputs)
        self.conv2 = _conv3x3(num_outputs, num_outputs)
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
        self.conv1 = _conv3x3(3, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = _stages(BasicBlock, num_blocks, widths)
        self.fc = nn.Linear(widths[3], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, K]."""
        hidden = self.stages(F.relu(self.bn1(self.conv1(images))))
        return self.fc(hidden.mean(dim=(2, 3)))


class WideResNet(nn.Module):
    """Three stages of wide blocks, with a final normalization before pooling."""

    def __init__(self, num_blocks: int, width: int, num_classes: int):
        super().__init__()
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = _conv3x3(3, widths[0])
        self.stages = _stages(WideBlock, num_blocks, widths)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, K]."""
        hidden = F.relu(self.bn1(self.stages(self.conv1(images))))
        return self.fc(hidden.mean(dim=(2, 3)))


class PlainCnn(nn.Module):
    """Three convolutions with stride 2, small enough for demos and tests on a CPU."""

    def __init__(self, width: int, num_classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        for num_inputs, num_outputs in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [
                _conv3x3(num_inputs, num_outputs, stride=2),
                nn.BatchNorm2d(num_outputs),
                nn.ReLU(inplace=True),
            ]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, K]."""
        return self.fc(self.features(images).mean(dim=(2, 3)))


def build_cifar_model(name: str, num_classes: int) -> nn.Module:
    """Build one of ``service.spec.model_names.CIFAR_MODELS`` with random weights (He, fan out)."""
    if found := re.fullmatch(r"resnet(\d+)(x4)?", name):
        widths = (32, 64, 128, 256) if found[2] else (16, 16, 32, 64)
        model: nn.Module = ResNet((int(found[1]) - 2) // 6, widths, num_classes)
    elif found := re.fullmatch(r"wrn_(\d+)_(\d+)", name):
        model = WideResNet((int(found[1]) - 4) // 6, int(found[2]), num_classes)
    else:
        model = PlainCnn({"tiny_cnn": 8, "small_cnn": 32}[name], num_classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def _conv3x3(num_inputs: int, num_outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(num_inputs, num_outputs, 3, stride, padding=1, bias=False)


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
