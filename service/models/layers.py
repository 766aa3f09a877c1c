"""What the networks for small images have in common: convolutions, and how weights begin."""

from torch import nn


def conv3x3(num_inputs: int, num_outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the size of images, but for the stride."""
    return nn.Conv2d(num_inputs, num_outputs, 3, stride, padding=1, bias=False)


def init_convolutions(model: nn.Module) -> None:
    """Draw the weights of all convolutions anew (He, fan out), in place; their biases become 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
