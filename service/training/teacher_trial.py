"""Which form of the teacher is fastest here, and predicts what the teacher itself does."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from service.distillation.ensemble import TeacherEnsemble
from service.distillation.pixels import FrozenTeacher
from service.distillation.task import autocast
from service.run.execution import Execution, NumberFormat, TeacherForm
from service.spec.job import JobSpec
from service.training.data import WorkerData
from service.training.distributed import World
from service.training.factory import build_teacher
from service.training.interleaved_timing import median_times_s, seconds
from service.training.precisions import autocast_dtype
from service.training.student_trial import MAX_IMAGES_ON_CPU, MIN_GAIN, MIN_RUN_S
from service.training.teacher_forms import can_be_folded, is_eager, members_of, take_form

MIN_AGREEMENT = 0.995
"""Share of images that a form must take for the same classes as the teacher itself in float32."""
NUM_COMPARED = 200

Teacher = FrozenTeacher | TeacherEnsemble


def decide_teacher(
    spec: JobSpec,
    world: World,
    data: WorkerData,
    precision: NumberFormat,
    num_steps: int,
    log: Callable[[str], None],
) -> TeacherForm:
    """The fastest form of the teacher; plain where its predictions differ.

    ``precision``: of forward passes. ``num_steps``: of the whole run.

    Raises:
        BadInputError: a model or weights that cannot be used.
    """
    execution = replace(Execution.plain(spec), teacher_precision=precision)
    num_images = data.step_share(0).num_local
    plain = build_teacher(spec, world.device, execution, batch_size=num_images)
    batch_size = min(member.num_at_once or num_images for member in members_of(plain))
    trial = TeacherTrial(plain, precision, batch_size, spec.augmentation.largest_size, log)
    form, compiles = trial.fastest_eager(), spec.training.compile
    num_passes = num_images / batch_size
    if compiles == "auto" and trial.pass_s(form) * num_passes * num_steps >= MIN_RUN_S:
        form = trial.compiled_if_faster(form)
    elif compiles == "on":
        form = trial.compiled_if_possible(form)
    if form.kind == "plain" or trial.agrees(form, _slice_of_val(world, data)):
        return form
    return TeacherForm(precision=precision)


def _slice_of_val(world: World, data: WorkerData) -> Tensor:
    """Some images of val, evenly spaced over it: uint8 pixels [B, S, S, 3]."""
    num_images = min(NUM_COMPARED * world.size, data.num_val_images)
    chosen = np.linspace(0, data.num_val_images - 1, num_images).astype(np.int64)
    images = [batch.images.clone() for batch in data.val_batches(chosen)]
    return torch.cat(images)[:NUM_COMPARED].to(world.device)


class TeacherTrial:
    """A teacher in several forms, on the images of a pass.

    Args:
        plain: the teacher as it is.
        precision: of forward passes.
        batch_size: images of a pass.
        size: their side in pixels.
        log: gets a line for each decision.
    """

    def __init__(
        self,
        plain: Teacher,
        precision: NumberFormat,
        batch_size: int,
        size: int,
        log: Callable[[str], None],
    ):
        self._plain, self._precision, self._batch_size = plain, precision, batch_size
        self._size, self._log = size, log
        self._device = members_of(plain)[0].normalize.scale.device
        self._forms: dict[TeacherForm, Teacher] = {}
        self._num_timed = batch_size
        if self._device.type == "cpu":
            self._num_timed = min(batch_size, MAX_IMAGES_ON_CPU)

    def fastest_eager(self) -> TeacherForm:
        """Folded where it can be; in 16 bits, the faster of cast weights and autocast."""
        kind: Literal["folded", "plain"] = "folded" if can_be_folded(self._plain) else "plain"
        form = TeacherForm(kind, precision=self._precision)
        if self._precision == "float32":
            return form
        cast = TeacherForm("folded", is_cast=True, precision=self._precision)
        times_s = self._times_s({"autocast": form, "cast": cast}, self._num_timed)
        is_cast = times_s["autocast"] >= MIN_GAIN * times_s["cast"]
        self._log(
            f"the teacher's weights are {'cast once' if is_cast else 'cast in each pass'}: a pass "
            f"of {self._num_timed} images takes {times_s['cast']:.3g} s with weights in "
            f"{self._precision} and {times_s['autocast']:.3g} s with autocast"
        )
        return cast if is_cast else form

    def pass_s(self, form: TeacherForm) -> float:
        """How long a pass of the teacher takes."""
        run = self._pass(form, self._num_timed)
        run()
        return seconds(run, self._device) * self._batch_size / self._num_timed

    def compiled_if_faster(self, form: TeacherForm) -> TeacherForm:
        """``form`` compiled, or itself where that is as fast or there is no compiler."""
        compiled = self.compiled_if_possible(form)
        if compiled is form:
            return form
        times_s = self._times_s({"eager": form, "compiled": compiled}, self._batch_size)
        is_faster = times_s["eager"] >= MIN_GAIN * times_s["compiled"]
        self._log(
            f"the teacher is {'compiled' if is_faster else 'eager'}: a pass of {self._batch_size} "
            f"images takes {times_s['compiled']:.3g} s compiled and {times_s['eager']:.3g} s "
            "eagerly"
        )
        return compiled if is_faster else form

    def compiled_if_possible(self, form: TeacherForm) -> TeacherForm:
        """``form`` compiled, or itself where there is no compiler."""
        compiled = replace(form, kind="compiled")
        teacher = self._formed(compiled)
        self._classify(teacher, self._blank(self._batch_size))
        return form if is_eager(teacher) else compiled

    def agrees(self, form: TeacherForm, pixels: Tensor) -> bool:
        """Whether it predicts what the teacher itself does in float32.

        In 16 bits, it is also enough to do so as often as the teacher as it is, in 16 bits, whose
        place it takes. ``pixels``: uint8 [B, S, S, 3] of any size.
        """
        sized = F.interpolate(pixels.permute(0, 3, 1, 2), self._size).permute(0, 2, 3, 1)
        count = len(sized)
        # What is compiled is compiled for whole batches: the first images make the last one whole.
        num_whole = -(-count // self._batch_size) * self._batch_size
        batches = sized[torch.arange(num_whole, device=sized.device) % count]
        teacher, same = self._formed(form), torch.zeros(2, device=self._device)
        for first in range(0, num_whole, self._batch_size):
            batch = batches[first : first + self._batch_size]
            own = self._plain(batch).argmax(dim=1)
            found = [self._classify(each, batch).argmax(dim=1) for each in (teacher, self._plain)]
            same += (torch.stack(found) == own)[:, : count - first].sum(dim=1)
        agreement, of_plain = (same / count).tolist()
        name = f"{form.kind}, in {self._precision},"
        if agreement >= min(MIN_AGREEMENT, of_plain):
            self._log(f"the teacher {name} predicts what it does itself for {agreement:.1%} of val")
            return True
        self._log(
            f"warning: the teacher {name} predicts what it does itself in float32 for only "
            f"{agreement:.1%} of {count} images of val: it is used unfolded"
        )
        return False

    def _times_s(self, forms: dict[str, TeacherForm], num_images: int) -> dict[str, float]:
        passes = {name: self._pass(form, num_images) for name, form in forms.items()}
        return median_times_s(passes, self._device)

    def _pass(self, form: TeacherForm, num_images: int) -> Callable[[], object]:
        return partial(self._classify, self._formed(form), self._blank(num_images))

    def _formed(self, form: TeacherForm) -> Teacher:
        if form.kind == "plain":
            return self._plain
        # Kept: each copy of one that is compiled would be compiled by itself.
        if form not in self._forms:
            self._forms[form] = copy.deepcopy(self._plain)
            for member in members_of(self._forms[form]):
                take_form(member, form, self._batch_size, self._log)
        return self._forms[form]

    def _classify(self, teacher: Teacher, pixels: Tensor) -> Tensor:
        with autocast(self._device, autocast_dtype(self._precision)):
            logits = teacher(pixels)
        assert isinstance(logits, Tensor)
        return logits

    def _blank(self, num_images: int) -> Tensor:
        shape = (num_images, self._size, self._size, 3)
        return torch.zeros(shape, dtype=torch.uint8, device=self._device)
