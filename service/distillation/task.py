"""The objective: student, frozen teacher and losses, from pixels to a loss and its named parts."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from service.distillation.losses import cross_entropy, dtkd_loss_at, kd_loss
from service.distillation.temperature import Temperatures, centered, matched_temperatures
from service.spec.data_sections import Normalization
from service.spec.sections import Method

# On a CPU, what one operation writes should still be in the cache for the next.
NUM_IMAGES_IN_CACHE = 4


class PixelNormalizer(nn.Module):
    """uint8 RGB [B, H, W, 3] to normalized float32 [B, 3, H, W] in channels_last memory."""

    scale: Tensor
    shift: Tensor

    def __init__(self, normalization: Normalization):
        super().__init__()
        mean = torch.tensor(normalization.mean, dtype=torch.float64)
        std = torch.tensor(normalization.std, dtype=torch.float64)
        self.register_buffer("scale", (1.0 / (255.0 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, pixels: Tensor) -> Tensor:
        """Permuted without copying: the result is channels_last because pixels are stored so."""
        # Whole rows at a time: over three channels alone, nothing would be vectorized.
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
    """A frozen network with its own input normalization; it is not trained and has no gradient."""

    def __init__(self, model: nn.Module, normalization: Normalization):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.normalize = PixelNormalizer(normalization)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to logits [B, K], ordinary tensors that autograd may save."""
        with torch.inference_mode():
            logits = self.model(self.normalize(pixels))
        return logits.clone()


class TaskOutput(NamedTuple):
    """``parts`` are scalars by name, ``loss`` their weighted sum; logits are [B, K]."""

    loss: Tensor
    parts: dict[str, Tensor]
    student_logits: Tensor
    teacher_logits: Tensor | None
    temperatures: Temperatures | None


class DistillationTask:
    """The loss of one micro-batch: warm-up x (alpha DTKD + beta KD) + gamma CE.

    ``student`` may be wrapped in DDP; the teacher is not.
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
        """Loss of uint8 pixels [B, H, W, 3] and labels [B]; ``warmup`` scales the distillation.

        Total = warm-up x (alpha DTKD + beta KD) + gamma CE.
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
            # A part of weight zero is still reported, but no gradient is spent on it.
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
        """The precision of forward passes, in training and in evaluation alike."""
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
    """What the method did to each sample, [B, 5]: see TELEMETRY_COLUMNS; None without a teacher.

    Gaps are |LSE(u / T_tea) - LSE(v / T_stu)| of centered logits, before with both at the base.
    """
    if output.teacher_logits is None or output.temperatures is None:
        return None
    u, v = centered(output.teacher_logits.float()), centered(output.student_logits.float())
    teacher, student, _ = output.temperatures

    def gap(teacher_temperature: Tensor | float, student_temperature: Tensor | float) -> Tensor:
        sharpness = torch.logsumexp(u / teacher_temperature, dim=1)
        return (sharpness - torch.logsumexp(v / student_temperature, dim=1)).abs()

    agreement = (u.argmax(dim=1) == v.argmax(dim=1)).float()
    columns = [
        teacher[:, 0],
        student[:, 0],
        gap(base_temperature, base_temperature),
        gap(teacher, student),
        agreement,
    ]
    return torch.stack([column.float() for column in columns], dim=1)
