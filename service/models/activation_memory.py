"""How many bytes a forward pass holds: for its backward pass, or without one."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from service.models.activation_checkpointing import blocks_of


def saved_bytes(network: nn.Module, images: Tensor, *, is_checkpointed: bool) -> int:
    """Most bytes that are held at a time for the backward pass of ``images``, weights included.

    ``network`` itself has no checkpoints and is left in training mode; it may be on the meta
    device. ``is_checkpointed``: as if it had; then it is what its blocks are given, and what one of
    them keeps while it is computed again.
    """
    # By the block that keeps them, None outside of blocks. A tensor that two operations keep is
    # held once; all are alive, so an id is one tensor's.
    saved: dict[nn.Module | None, dict[int, Tensor]] = defaultdict(dict)
    current: list[nn.Module | None] = [None]

    def keep(tensor: Tensor) -> Tensor:
        saved[current[-1]][id(tensor)] = tensor
        return tensor

    def enter(block: nn.Module, inputs: tuple[Any, ...]) -> None:
        saved[None] |= {id(one): one for one in inputs if isinstance(one, Tensor)}
        current.append(block)

    def leave(*_: object) -> None:
        current.pop()

    handles = []
    for block in blocks_of(network) if is_checkpointed else ():
        handles += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network.train()(images)
    for handle in handles:
        handle.remove()
    assert isinstance(output, Tensor)
    return _bytes(saved.pop(None, {})) + max(map(_bytes, saved.values()), default=0)


@torch.no_grad()
def inference_bytes(network: nn.Module, image: Tensor) -> int:
    """About how many bytes a forward pass of ``image`` [1, 3, S, S] holds at a time.

    Four of its largest tensors: what a layer reads and writes, and a shortcut beside them.
    ``network`` is in evaluation mode, and may be on the meta device.
    """
    sizes: list[int] = []

    def see(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel() * output.element_size())

    handles = [module.register_forward_hook(see) for module in network.modules()]
    network(image)
    for handle in handles:
        handle.remove()
    return 4 * max(sizes, default=0)


def _bytes(tensors: Mapping[int, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
