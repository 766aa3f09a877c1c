"""Activation checkpointing: a block's activations are computed again in the backward pass.

Only the blocks' inputs are kept, Chen et al., arXiv 1604.06174. The gradient is that of a plain
pass: random numbers are drawn again as before, and BatchNorm's statistics are updated once.
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from service.models.mixins import mix_in

Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
STAGE_NAMES = ("blocks", "layers")
"""What stages that are no Sequential call their blocks."""


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a network: what its stacks consist of, apart from single layers."""
    for child in module.children():
        if not _is_stack(module) or _has_stack(child):
            yield from blocks_of(child)
        elif any(True for _ in child.children()):
            yield child


def _has_stack(module: nn.Module) -> bool:
    """Whether a module is a stage: a stack of blocks, or one that has such a stack."""
    return any(map(_is_stack, (module, *(getattr(module, name, None) for name in STAGE_NAMES))))


def _is_stack(module: nn.Module | None) -> bool:
    """Whether a module is a sequence with more than single layers."""
    if not isinstance(module, nn.Sequential | nn.ModuleList):
        return False
    return any(any(True for _ in child.children()) for child in module)


def checkpoint_blocks(network: nn.Module) -> None:
    """Compute each block's activations again in the backward pass, from now on.

    Names of tensors, evaluation mode and copies of the network stay as they are.
    """
    for block in blocks_of(network):
        mix_in(block, _Checkpointed)


class _Checkpointed(nn.Module):
    """Mixed into the class of a block."""

    def forward(self, *inputs: Any) -> Any:  # noqa: ANN401 - what the block takes and returns
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(*inputs)
        if torch.compiler.is_compiling():
            # The compiler updates buffers once, and knows no contexts.
            return checkpoint(super().forward, *inputs, use_reentrant=False)
        contexts = partial(_contexts, self)
        return checkpoint(super().forward, *inputs, use_reentrant=False, context_fn=contexts)


def _contexts(block: nn.Module) -> Contexts:
    """Of the forward pass, and of its repetition."""
    return nullcontext(), _frozen_statistics(block)


@contextlib.contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    """BatchNorm's running statistics are updated in copies, which are dropped."""
    # Not track_running_stats = False: BatchNorm keeps them for its backward pass, and the
    # repetition must keep as many tensors as the pass that it repeats.
    norms = [
        module
        for module in block.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    kept = [{name: getattr(norm, name) for name in STATISTICS} for norm in norms]
    for norm, values in zip(norms, kept, strict=True):
        for name, value in values.items():
            setattr(norm, name, value.clone())
    try:
        yield
    finally:
        for norm, values in zip(norms, kept, strict=True):
            for name, value in values.items():
                setattr(norm, name, value)
