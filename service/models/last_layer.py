"""The last layer of a classifier: its weights, and its precision where others run in bfloat16.

bfloat16 has eight significant bits: logits near 16 would be multiples of 1/8, and classes tie.
"""

from typing import Any

import torch
from torch import Tensor, nn

from service.models.mixins import mix_in
from service.spec.errors import BadInputError, Problem


def keep_last_layer_in_float32(model: nn.Module, image_size: int) -> None:
    """Make the last layer with parameters compute in float32 under autocast too, in place.

    Which layer is the last is seen in a forward pass of a blank image [1, 3, S, S], S =
    ``image_size``, in evaluation mode, which changes nothing in the model.
    """
    mix_in(last_layer(model, image_size), Float32Layer)


class Float32Layer:
    """Mixed into a layer's class in front of it: float32, whatever the others have."""

    def forward(self, inputs: Tensor) -> Any:  # noqa: ANN401 - what the layer returns
        """As the layer itself, in float32."""
        with torch.autocast(inputs.device.type, enabled=False):
            return super().forward(inputs.float())  # type: ignore[misc]


def classifier_weights(model: nn.Module, num_classes: int, image_size: int) -> Tensor | None:
    """The last layer's weights, one row per class: [K, C]; None if it has no such rows."""
    weights = last_layer(model, image_size).weight
    if not isinstance(weights, Tensor) or weights.shape[0] != num_classes:
        return None
    return weights.detach().flatten(1)


def check_classifier(name: str, model: nn.Module, num_classes: int, image_size: int) -> None:
    """Refuse a teacher without ``classifier_weights``, which a loss needs.

    Raises:
        BadInputError: naming the model.
    """
    if classifier_weights(model, num_classes, image_size) is None:
        wrong = f"{name} does not end in a layer with one row of weights per class"
        remedy = "use another teacher, or leave out the loss that compares these rows (wkd)"
        raise BadInputError("spec", [Problem("teacher.model", wrong, remedy)])


def last_layer(model: nn.Module, image_size: int) -> nn.Module:
    """The last layer with parameters in a forward pass of a blank image, see above."""
    called: list[nn.Module] = []
    leaves = [module for module in model.modules() if _is_layer(module)]
    hooks = [leaf.register_forward_hook(lambda layer, *_: called.append(layer)) for leaf in leaves]
    device = next(model.parameters()).device
    is_training = model.training
    model.eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, image_size, image_size, device=device))
    model.train(is_training)
    for hook in hooks:
        hook.remove()
    return called[-1]


def _is_layer(module: nn.Module) -> bool:
    """Whether it computes with parameters itself, and is no container such as a whole transformer
    with its class token.
    """
    children = {name for name, _ in module.named_children()}
    return bool(list(module.parameters(recurse=False))) and children <= {"parametrizations"}
