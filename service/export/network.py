"""The network that is exported, traced once for all formats that have its operations."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from service.evaluate.source import FoundModel
from service.export.options import ExportOptions
from service.spec.data_sections import Normalization
from service.spec.errors import BadInputError, Problem

# With an example of one image the exported batch size would be frozen at one.
EXAMPLE_BATCH_SIZE = 2
DYNAMIC_SHAPES = ({0: Dim("batch")},)


class NormalizedNetwork(nn.Module):
    """A network with its normalization: float32 RGB [N, 3, H, W] from 0 to 1 to logits [N, K].

    A value x of a channel becomes (x - mean) / std.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, normalization: Normalization):
        super().__init__()
        self.network = network
        for name in ("mean", "std"):
            channels = torch.tensor(getattr(normalization, name)).view(1, 3, 1, 1)
            self.register_buffer(name, channels)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K] of images [N, 3, H, W]."""
        return self.network((images - self.mean) / self.std)


def traced(found: FoundModel, options: ExportOptions) -> ExportedProgram:
    """The operations of a network for batches of any size, of images of its crop's size.

    Raises:
        BadInputError: torch.export cannot trace this network.
    """
    network = found.network
    if options.normalizes:
        network = NormalizedNetwork(network, found.preprocessing.normalization).eval()
    size = found.preprocessing.crop_size
    example = torch.zeros(EXAMPLE_BATCH_SIZE, 3, size, size)
    try:
        with without_warnings():
            program = torch.export.export(network, (example,), dynamic_shapes=DYNAMIC_SHAPES)
    except Exception as error:
        # Of many types, none of which torch documents.
        raise not_exportable(found.architecture, options, error) from error
    for node in program.graph.nodes:
        # Paths of this machine, which are nobody else's business.
        node.meta.pop("stack_trace", None)
    return program


def not_exportable(architecture: str, options: ExportOptions, error: Exception) -> BadInputError:
    """The error for a network that torch cannot export, with the first line of the reason."""
    reason = next((line for line in str(error).splitlines() if line.strip()), "")
    where, value = "--format", options.format
    remedy = "use --format safetensors, which has the weights alone"
    if options.opset is not None:
        where, value, remedy = "--opset", str(options.opset), "leave it out"
    wrong = f"is {value}, to which torch cannot export {architecture}"
    wrong += f" ({type(error).__name__}: {reason.strip()})"
    return BadInputError("arguments", [Problem(where, wrong, remedy)])


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Drop what exporters and quantizers warn of, log and print about their ways of working.

    What fails is raised all the same.
    """
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        # The graph of a network that cannot be traced is printed to stderr.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
