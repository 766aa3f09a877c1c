"""Networks for images of about 32 x 32 pixels, common in the distillation literature."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from service.models.bottleneck import BottleneckResNet
from service.models.layers import conv3x3, init_convolutions
from service.models.mobilenet import HalfMobileNetV2
from service.models.resnet import ResNet, WideResNet
from service.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from service.models.vgg import VGG8_STAGES, VGG13_STAGES, Vgg


class PlainCnn(nn.Module):
    """Three convolutions with stride 2, small enough for demos and tests on a CPU."""

    def __init__(self, width: int, num_classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        for num_inputs, num_outputs in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [
                conv3x3(num_inputs, num_outputs, stride=2),
                nn.BatchNorm2d(num_outputs),
                nn.ReLU(inplace=True),
            ]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(4 * width, num_classes)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, K]."""
        return self.fc(self.features(images).mean(dim=(2, 3)))


NARROW, FOUR_TIMES_AS_WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    **{
        f"resnet{depth}": partial(ResNet, (depth - 2) // 6, NARROW)
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    **{
        f"resnet{depth}x4": partial(ResNet, (depth - 2) // 6, FOUR_TIMES_AS_WIDE)
        for depth in (8, 32)
    },
    **{
        f"wrn_{depth}_{width}": partial(WideResNet, (depth - 4) // 6, width)
        for depth in (16, 40)
        for width in (1, 2)
    },
    "resnet50": BottleneckResNet,
    "vgg8": partial(Vgg, VGG8_STAGES),
    "vgg13": partial(Vgg, VGG13_STAGES),
    "mobilenet_v2": HalfMobileNetV2,
    "shufflenet_v1": ShuffleNetV1,
    "shufflenet_v2": ShuffleNetV2,
    "tiny_cnn": partial(PlainCnn, 8),
    "small_cnn": partial(PlainCnn, 32),
}
"""What builds each of ``service.spec.model_names.CIFAR_MODELS``, by the number of classes."""


def build_cifar_model(name: str, num_classes: int) -> nn.Module:
    """Build one of the networks with random weights."""
    return NETWORKS[name](num_classes)
