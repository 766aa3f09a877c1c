"""The training objective of the method, from pixels and labels to a loss and its named parts.

``DistillationTask`` computes, for one micro-batch,

    loss = warmup * (alpha * DTKD + beta * KD) + gamma * cross-entropy

DTKD and KD are divergences between the predictions of a frozen teacher and of the student. DTKD
divides their logits by temperatures chosen for each sample, KD by the base temperature;
``service.distillation.losses`` has both formulas and their sources. The weights alpha, beta and
gamma are constants. The factor warmup rises from 0 to 1 over the first epochs. Without a teacher,
the loss is the last term only.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from service.distillation.logits import are_valid
from service.distillation.losses import cross_entropy, dtkd_loss_at, kd_loss
from service.distillation.temperature import Temperatures, centered, matched_temperatures
from service.spec.data_sections import Normalization
from service.spec.sections import Method

# On a CPU, images are normalized in groups small enough to stay in the cache.
NUM_IMAGES_IN_CACHE = 4


class PixelNormalizer(nn.Module):
    """Converts uint8 RGB [B, H, W, 3] to normalized float32 [B, 3, H, W] in channels_last memory.

    A value x of a channel becomes (x / 255 - mean) / std.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, normalization: Normalization):
        super().__init__()
        mean = torch.tensor(normalization.mean, dtype=torch.float64)
        std = torch.tensor(normalization.std, dtype=torch.float64)
        self.register_buffer("scale", (1.0 / (255.0 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalize pixels [B, H, W, 3]; the result is a permuted view of contiguous memory."""
        # Row by row: an inner loop over only three channels would not be vectorized.
        width = pixels.shape[2]
        scale, shift = self.scale.repeat(width), self.shift.repeat(width)
        rows = pixels.flatten(2)
        normalized = torch.empty(rows.shape, device=pixels.device)
        num_at_once = len(rows) if pixels.is_cuda else NUM_IMAGES_IN_CACHE
        parts = torch.split(rows, num_at_once)
        for part, out in zip(parts, torch.split(normalized, num_at_once), strict=True):
            torch.addcmul(shift, part.float(), scale, out=out)
        return normalized.view(pixels.shape).permute(0, 3, 1, 2)


class FrozenTeacher(nn.Module):
    """A network in eval mode with its own input normalization and without gradients."""

    def __init__(self, model: nn.Module, normalization: Normalization):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.normalize = PixelNormalizer(normalization)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, K] of uint8 pixels [B, H, W, 3]."""
        with torch.inference_mode():
            logits = self.model(self.normalize(pixels))
        # Autograd cannot save an inference tensor for backward; it can save a clone.
        return logits.clone()


class TaskOutput(NamedTuple):
    """The result of one micro-batch.

    ``loss``: scalar with a graph, to call backward on. ``parts``: detached scalars by name: loss
    and ce, and with a teacher dtkd, kd and clamped_share, the share of samples whose temperatures
    were clamped. ``student_logits`` and ``teacher_logits``: [B, K]. ``teacher_logits`` and
    ``temperatures`` are None without a teacher.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    student_logits: Tensor
    teacher_logits: Tensor | None
    temperatures: Temperatures | None


class DistillationTask:
    """Computes the loss of a micro-batch; the module's docstring has the formula.

    Args:
        student: the network to train, which may be wrapped in DDP; images [B, 3, H, W] to logits
            [B, K].
        normalizer: the student's input normalization.
        teacher: None for training with cross-entropy only.
        method: weights of the losses and settings of the temperatures.
        label_smoothing: of the cross-entropy.
        autocast_dtype: precision of the forward passes; None for float32. Losses are computed in
            float32 or wider.
    """

    def __init__(
        self,
        student: nn.Module,
        normalizer: PixelNormalizer,
        teacher: FrozenTeacher | None,
        method: Method,
        *,
        label_smoothing: float,
        autocast_dtype: torch.dtype | None,
    ):
        self.student = student
        self.normalizer = normalizer
        self.teacher = teacher
        self._method = method
        self._label_smoothing = label_smoothing
        self._autocast_dtype = autocast_dtype

    def __call__(self, pixels: Tensor, labels: Tensor, warmup: float) -> TaskOutput:
        """Compute the loss of a micro-batch, and its parts.

        Args:
            pixels: uint8 RGB, [B, H, W, 3].
            labels: class indices, [B].
            warmup: factor of the distillation terms, in [0, 1].
        """
        with self.autocast(pixels.device):
            teacher_logits = self.teacher(pixels) if self.teacher else None
            student_logits = self.student(self.normalizer(pixels))
        method = self._method
        ce = cross_entropy(student_logits, labels, self._label_smoothing)
        parts = {"ce": ce}
        loss = method.gamma * ce
        temperatures = None
        if teacher_logits is not None:
            temperatures = self._temperatures(teacher_logits, student_logits)
            # A loss of weight zero is only reported: its graph would cost time and memory.
            with torch.set_grad_enabled(method.alpha > 0):
                parts["dtkd"] = dtkd_loss_at(teacher_logits, student_logits, temperatures)
            with torch.set_grad_enabled(method.beta > 0):
                parts["kd"] = kd_loss(teacher_logits, student_logits, method.base_temperature)
            distillation = method.alpha * parts["dtkd"] + method.beta * parts["kd"]
            loss = loss + warmup * distillation
            parts["clamped_share"] = temperatures.clamped.float().mean()
        parts = {"loss": loss, **parts}
        detached = {name: part.detach() for name, part in parts.items()}
        return TaskOutput(loss, detached, student_logits, teacher_logits, temperatures)

    def autocast(self, device: torch.device) -> torch.autocast:
        """Autocast context of forward passes, the same in training and evaluation."""
        dtype = self._autocast_dtype
        return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)

    def _temperatures(self, teacher_logits: Tensor, student_logits: Tensor) -> Temperatures:
        method = self._method
        with torch.set_grad_enabled(not method.detach and method.alpha > 0):
            return matched_temperatures(
                teacher_logits,
                student_logits,
                method.base_temperature,
                sharpness=method.sharpness,
                floor=method.floor,
            )


TELEMETRY_COLUMNS = ("teacher", "student", "gap_before", "gap_after", "agreement")


@torch.no_grad()
def sample_telemetry(output: TaskOutput, base_temperature: float) -> Tensor | None:
    """Diagnostics of each sample, [B, 5] in the order of TELEMETRY_COLUMNS; None without a teacher.

    teacher, student: the temperatures T_tea and T_stu. gap_after: |LSE(u / T_tea) - LSE(v / T_stu)|
    of centered teacher logits u and student logits v. gap_before: the same with
    ``base_temperature`` for both. agreement: 1 where teacher and student predict the same class,
    else 0, also where the logits of one are not valid (see ``are_valid``).
    """
    if output.teacher_logits is None or output.temperatures is None:
        return None
    u, v = centered(output.teacher_logits.float()), centered(output.student_logits.float())
    teacher, student, _ = output.temperatures

    def gap(teacher_temperature: Tensor | float, student_temperature: Tensor | float) -> Tensor:
        sharpness = torch.logsumexp(u / teacher_temperature, dim=1)
        return (sharpness - torch.logsumexp(v / student_temperature, dim=1)).abs()

    are_both_valid = are_valid(output.teacher_logits) & are_valid(output.student_logits)
    agreement = ((u.argmax(dim=1) == v.argmax(dim=1)) & are_both_valid).float()
    columns = [
        teacher[:, 0],
        student[:, 0],
        gap(base_temperature, base_temperature),
        gap(teacher, student),
        agreement,
    ]
    return torch.stack([column.float() for column in columns], dim=1)
