"""What the networks for small images have in common: convolutions, and how weights begin."""

from torch import nn


def conv3x3(num_inputs: int, num_outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the size of images, but for the stride."""
    return nn.Conv2d(num_inputs, num_outputs, 3, stride, padding=1, bias=False)


def conv_norm(
    num_inputs: int, num_outputs: int, kernel_size: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A convolution without bias, [B, C, H, W] to [B, C', H', W'], and its normalization."""
    padding = kernel_size // 2
    return [
        nn.Conv2d(num_inputs, num_outputs, kernel_size, stride, padding, 1, groups, bias=False),
        nn.BatchNorm2d(num_outputs),
    ]


def conv_norm_relu(
    num_inputs: int, num_outputs: int, kernel_size: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A convolution without bias, its normalization and a ReLU."""
    layers = conv_norm(num_inputs, num_outputs, kernel_size, stride, groups)
    return [*layers, nn.ReLU(inplace=True)]


def depthwise_norm(num_channels: int, stride: int = 1) -> list[nn.Module]:
    """A 3x3 convolution of each channel by itself, and its normalization."""
    return conv_norm(num_channels, num_channels, 3, stride, groups=num_channels)


def init_convolutions(model: nn.Module) -> None:
    """Draw the weights of all convolutions anew (He, fan out), in place; their biases become 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_classifier(layer: nn.Linear) -> None:
    """Draw the weights of the last layer anew, narrow enough that logits start near 0."""
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
