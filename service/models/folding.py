"""A network for inference alone: BatchNorm folded into the convolutions in front of it.

In evaluation mode BatchNorm is a factor and a summand per channel, which the convolution's weights
and bias can have: one pass over the feature map less, with equal results but for rounding.
"""

from collections import Counter

from torch import fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval


def folded(model: nn.Module) -> nn.Module | None:
    """The same function as ``model``, in evaluation mode, with fewer layers.

    It shares the layers of ``model`` that it does not change, and changes none. None where the
    model cannot be traced, as where the path of an image depends on what is in it or on its size,
    or where there is nothing to fold.
    """
    assert not model.training, "BatchNorm's statistics are those of training"
    tracer = _LayerTracer()
    try:
        graph = tracer.trace(model)
    except Exception:
        # Tracing calls the model's own code with stand-ins for tensors, which may raise anything.
        return None
    network = fx.GraphModule(tracer.root, graph)
    if not _fold_all(network):
        return None
    network.delete_all_unused_submodules()
    network.recompile()
    return network.eval()


class _LayerTracer(fx.Tracer):
    """Traces a network down to its layers, as those of torch and others that have none within."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one operation of the graph."""
        is_layer = isinstance(m, nn.Conv2d | nn.BatchNorm2d) or not list(m.children())
        return is_layer or super().is_leaf_module(m, module_qualified_name)


def _fold_all(network: fx.GraphModule) -> int:
    """Fold what can be folded; returns how many layers that were."""
    num_uses = Counter(
        id(network.get_submodule(str(node.target)))
        for node in network.graph.nodes
        if node.op == "call_module"
    )
    num_folded = 0
    for node in list(network.graph.nodes):
        norm, source = _called(network, node), node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or len(source.users) > 1:
            continue
        convolution = _called(network, source)
        if (
            not _can_fold(convolution, norm)
            or max(num_uses[id(convolution)], num_uses[id(norm)]) > 1
        ):
            continue
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        network.set_submodule(str(source.target), fuse_conv_bn_eval(convolution, norm))
        if has_activation(norm):
            rest = nn.Sequential(norm.get_submodule("drop"), norm.get_submodule("act"))
            network.set_submodule(str(node.target), rest)
        else:
            node.replace_all_uses_with(source)
            network.graph.erase_node(node)
        num_folded += 1
    return num_folded


def _called(network: nn.Module, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _can_fold(convolution: nn.Module | None, norm: nn.Module | None) -> bool:
    if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
        return False
    # A convolution that computes its weights anew would undo the factor.
    is_usual = type(convolution).forward is nn.Conv2d.forward
    is_usual &= not parametrize.is_parametrized(convolution)
    is_usual &= type(norm).forward is nn.BatchNorm2d.forward or has_activation(norm)
    hooks = (convolution._forward_hooks, convolution._forward_pre_hooks, norm._forward_hooks)
    return is_usual and norm.running_mean is not None and not any(hooks)


def has_activation(norm: nn.Module) -> bool:
    """Whether it is timm's BatchNorm, which ends in dropout and an activation of its own."""
    return any(
        kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm.")
        for kind in type(norm).__mro__
    )
