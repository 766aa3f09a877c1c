"""Which precision, and whether torch.compile, makes the student's steps faster here.

Each alternative is timed in a few forward and backward passes of a copy of the student.
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from service.distillation.task import autocast
from service.models.last_layer import keep_last_layer_in_float32
from service.run.execution import NumberFormat, StudentForm
from service.spec.job import JobSpec
from service.training.compiling import CompiledForward
from service.training.distributed import World
from service.training.factory import build_student
from service.training.interleaved_timing import median_times_s, seconds
from service.training.memory import is_out_of_memory
from service.training.passes import plan_passes
from service.training.precisions import autocast_dtype

MIN_GAIN = 1.05
"""Times less far apart than this factor are equal: those of steps scatter as much."""
MIN_RUN_S = 1200.0
"""Compiling a network takes about a minute, which the smallest gain earns in 20."""
MAX_IMAGES_ON_CPU = 32
"""More of them take as much longer."""
BFLOAT16_CAPABILITY = (8, 0)
"""Of GPUs: older ones compute in bfloat16 more slowly than in float32, if at all."""


def decide_student(
    spec: JobSpec, world: World, num_steps: int, log: Callable[[str], None]
) -> StudentForm:
    """The fastest form of the student that the spec allows; ``num_steps``: of the whole run.

    Raises:
        BadInputError: a model or weights that cannot be used.
    """
    training = spec.training
    is_decided = training.compile == "off" or (
        training.compile == "on" and spec.num_micro_batches <= world.size
    )
    if training.precision != "auto" and is_decided:
        return StudentForm(training.precision, training.compile == "on")
    trial = _StudentTrial(spec, world)
    if training.precision == "auto":
        precision = trial.faster_precision(half_precision(world.device), log)
    else:
        precision = training.precision
    return StudentForm(precision, _is_compiled(spec, trial, precision, num_steps, log))


def _is_compiled(
    spec: JobSpec,
    trial: "_StudentTrial",
    precision: NumberFormat,
    num_steps: int,
    log: Callable[[str], None],
) -> bool:
    wanted = spec.training.compile
    if wanted == "off":
        return False
    num_passes = trial.num_passes(precision)
    if num_passes > 1:
        # BatchNorm tells their micro-batches apart: there would be code for each.
        log(
            f"the student is eager: a step has {num_passes} forward passes of it; training."
            "max_activation_bytes or training.micro_batch_size says how many"
        )
        return False
    if wanted == "on":
        return True
    is_worth_it = trial.step_s(precision) * num_steps >= MIN_RUN_S
    return is_worth_it and trial.is_faster_compiled(precision, log)


def half_precision(device: torch.device) -> NumberFormat:
    """The number format of 16 bits that suits a device."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < BFLOAT16_CAPABILITY:
        return "float16"
    return "bfloat16"


class _StudentTrial:
    """Blank images and copies of the student, as large as in training."""

    def __init__(self, spec: JobSpec, world: World):
        self._spec, self._world = spec, world
        self._device, size = world.device, spec.augmentation.largest_size
        self._size, self._in_step = size, spec.training.global_batch_size / world.size
        self._student = build_student(spec, "float32").to(world.device)
        self._student.to(memory_format=torch.channels_last).train()
        num_images = spec.micro_batch_size
        if world.device.type == "cpu":
            num_images = min(num_images, MAX_IMAGES_ON_CPU)
        images = torch.zeros(num_images, 3, size, size, device=world.device)
        self._images = images.to(memory_format=torch.channels_last)
        self._text = f"forward and backward passes of {num_images} images"

    def faster_precision(self, half: NumberFormat, log: Callable[[str], None]) -> NumberFormat:
        """``half``, or float32 where that is as fast."""
        if not self._fits_in_float32():
            log(f"precision {half}: {self._text} do not fit in float32")
            return half
        names: tuple[NumberFormat, ...] = ("float32", half)
        passes = [self._passes(self._copy(name), name) for name in names]
        times_s = median_times_s(dict(zip(names, passes, strict=True)), self._device)
        found = half if times_s["float32"] >= MIN_GAIN * times_s[half] else "float32"
        log(
            f"precision {found}: {self._text} take {times_s[half]:.3g} s in {half} and "
            f"{times_s['float32']:.3g} s in float32"
        )
        return found

    def _fits_in_float32(self) -> bool:
        try:
            self._passes(self._copy("float32"), "float32")()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def num_passes(self, precision: NumberFormat) -> int:
        """Forward passes of a worker's share of a step."""
        passes = plan_passes(
            self._spec, self._copy(precision), autocast_dtype(precision), self._world
        )
        return passes.num_passes(math.ceil(self._in_step), self._spec.micro_batch_size)

    def step_s(self, precision: NumberFormat) -> float:
        """How long the passes of a worker's share of a step take, eagerly."""
        run = self._passes(self._copy(precision), precision)
        run()
        return seconds(run, self._device) * self._in_step / len(self._images)

    def is_faster_compiled(self, precision: NumberFormat, log: Callable[[str], None]) -> bool:
        """Whether compiled code is faster; False where there is no compiler."""
        student = self._copy(precision)
        forward = CompiledForward(student, len(self._images), log)
        eager = self._passes(self._copy(precision), precision)
        compiled = self._passes(student, precision, forward)
        compile_s = seconds(compiled, self._device)
        if not forward.is_usable:
            return False
        times_s = median_times_s({"eager": eager, "compiled": compiled}, self._device)
        is_faster = times_s["eager"] >= MIN_GAIN * times_s["compiled"]
        log(
            f"the student is {'compiled' if is_faster else 'eager'}: {self._text} take "
            f"{times_s['compiled']:.3g} s compiled and {times_s['eager']:.3g} s eagerly; compiling "
            f"took {compile_s:.0f} s"
        )
        return is_faster

    def _copy(self, precision: NumberFormat) -> nn.Module:
        student = copy.deepcopy(self._student)
        if precision != "float32":
            keep_last_layer_in_float32(student, self._size)
        return student

    def _passes(
        self,
        student: nn.Module,
        precision: NumberFormat,
        forward: Callable[[Tensor], Tensor] | None = None,
    ) -> Callable[[], None]:
        dtype = autocast_dtype(precision)

        def run() -> None:
            with autocast(self._device, dtype):
                logits = (forward or student)(self._images)
            torch.autograd.backward(logits.float().square().mean())
            student.zero_grad(set_to_none=True)

        return run
