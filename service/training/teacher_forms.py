"""The network of a frozen teacher in the form in which it costs least; see ``TeacherForm``."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from service.distillation.ensemble import TeacherEnsemble
from service.distillation.pixels import FrozenTeacher
from service.models.activation_memory import inference_bytes
from service.models.folding import folded
from service.models.last_layer import Float32Layer
from service.run.execution import TeacherForm
from service.spec.job import JobSpec
from service.training.compiling import CompiledNetwork
from service.training.precisions import autocast_dtype


def take_form(
    teacher: FrozenTeacher,
    form: TeacherForm,
    batch_size: int,
    warn: Callable[[str], None],
) -> None:
    """Replace a teacher's plain network by one in this form.

    ``batch_size`` and ``warn``: see ``CompiledForward``.
    """
    if form.kind == "plain":
        return
    network = folded(teacher.model) or teacher.model
    dtype = autocast_dtype(form.precision)
    if form.is_cast and dtype is not None:
        network = CastNetwork(network, dtype)
    if form.kind == "compiled":
        network = CompiledNetwork(network, batch_size, warn)
    teacher.model = network.eval().requires_grad_(False)


def can_be_folded(teacher: FrozenTeacher | TeacherEnsemble) -> bool:
    """Whether one of its networks has BatchNorm that can be folded."""
    return any(folded(member.model) is not None for member in members_of(teacher))


def members_of(teacher: FrozenTeacher | TeacherEnsemble) -> list[FrozenTeacher]:
    """The networks of an ensemble, or the only one."""
    if isinstance(teacher, FrozenTeacher):
        return [teacher]
    return [member for member in teacher.members if isinstance(member, FrozenTeacher)]


def is_eager(teacher: FrozenTeacher | TeacherEnsemble) -> bool:
    """Whether one of its networks could not be compiled."""
    models = [member.model for member in members_of(teacher)]
    return any(not isinstance(m, CompiledNetwork) or not m.is_usable for m in models)


def images_per_pass(
    spec: JobSpec, teacher: FrozenTeacher, num_images: int, *, is_16_bit: bool
) -> int:
    """How many of a worker's ``num_images`` of a step go through the teacher at once.

    All of them where training.max_activation_bytes allows it, else equal parts.
    """
    device, size = teacher.normalize.scale.device, spec.augmentation.largest_size
    image = torch.zeros(1, 3, size, size, device=device)
    per_image = inference_bytes(teacher.model, teacher.resized(image)) // (2 if is_16_bit else 1)
    num_fitting = max(1, spec.training.max_activation_bytes // max(1, per_image))
    num_parts = -(-num_images // num_fitting)
    # Parts of one size, if there are a few more of them: a compiled teacher knows one size.
    equal = (n for n in range(num_parts, 2 * num_parts + 1) if num_images % n == 0)
    return -(-num_images // next(equal, num_parts))


class CastNetwork(nn.Module):
    """A copy of a network whose weights have the precision of its forward passes, but for the last
    layer's, which are float32.

    Autocast converts the weights of each layer in each forward pass.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network, self._dtype = copy.deepcopy(network), dtype
        for module in self.network.modules():
            if not isinstance(module, Float32Layer):
                _cast(module, dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] to logits [B, K]."""
        with torch.autocast(images.device.type, enabled=False):
            logits = self.network(images.to(self._dtype))
            assert isinstance(logits, Tensor)
            return logits


@torch.no_grad()
def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert what a module holds itself, not its children."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.is_floating_point():
            setattr(module, name, nn.Parameter(parameter.to(dtype), requires_grad=False))
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_floating_point():
            setattr(module, name, buffer.to(dtype))
