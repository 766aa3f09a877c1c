"""An optimizer's groups of parameters: which are decayed, and with which share of the rate.

A group's ``lr_scale`` is its share of the learning rate. With layer decay, a block's share is the
decay to the power of the number of blocks after it: Clark et al., arXiv 2003.10555; Bao et al.,
arXiv 2106.08254.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from service.distillation.task import Trainee
from service.spec.optimization import AnyOptimizer

VIT_BLOCK = re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.")
VIT_STEM = ("class_token", "conv_proj.", "encoder.pos_embedding")
VIT_HEAD = "heads."


def parameter_groups(model: nn.Module, section: AnyOptimizer) -> list[dict[str, Any]]:
    """Groups of the model's trainable parameters with one decay and one share each.

    Norms and biases are the parameters with one axis. Parameters of a ``Trainee`` that are not its
    student's, such as a loss's, have the full rate.
    """
    network = model.student if isinstance(model, Trainee) else model
    scales: dict[nn.Parameter, float] = {}
    if section.layer_decay < 1.0:
        by_name = layer_scales(network, section.layer_decay)
        scales = {parameter: by_name[name] for name, parameter in network.named_parameters()}
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        decays = section.decay_norms_and_biases or parameter.ndim > 1
        scale = scales.get(parameter, 1.0)
        new = {"params": [], "lr_scale": scale, **_decay_settings(section, decays)}
        groups.setdefault((decays, scale), new)["params"].append(parameter)
    return list(groups.values())


def _decay_settings(section: AnyOptimizer, decays: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {"weight_decay": section.weight_decay if decays else 0.0}
    if section.kind in ("lars", "lamb"):
        settings["is_adapted"] = decays
    return settings


def layer_scales(network: nn.Module, decay: float) -> dict[str, float]:
    """Share of the learning rate of each parameter, by its name; the classifier's is 1."""
    layers = layers_of(network)
    assert layers, "students whose blocks are not known are refused"
    last = max(layers.values())
    return {name: decay ** (last - layer) for name, layer in layers.items()}


def layers_of(network: nn.Module) -> Mapping[str, int]:
    """The layer of each parameter by its name, counted from the stem, 0, to the classifier.

    Of a ViT of torchvision, or a network of timm that says it; empty for others.
    """
    if hasattr(network, "group_matcher"):
        # Imported here: timm is optional, and its networks alone have this.
        from timm.models import group_parameters

        find_groups: Any = network.group_matcher
        layers: dict[str, int] = group_parameters(network, find_groups(coarse=False), reverse=True)
        return layers
    names = [name for name, _ in network.named_parameters()]
    blocks = {name: int(found[1]) + 1 for name in names if (found := VIT_BLOCK.match(name))}
    if not blocks:
        return {}
    num_blocks = max(blocks.values())
    outside = {name: 0 if name.startswith(VIT_STEM) else num_blocks for name in names}
    outside |= {name: num_blocks + 1 for name in names if name.startswith(VIT_HEAD)}
    return outside | blocks
