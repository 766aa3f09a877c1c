"""Rules about fields that another field leaves without effect: they are refused, not ignored.

A field counts as set where its value is not its default: a stored spec lists all fields.
"""

import json
from collections.abc import Iterator, Mapping

from service.spec.data_sections import Augmentation
from service.spec.errors import Problem
from service.spec.fields import Section
from service.spec.optimization import Schedule
from service.spec.sections import Resources
from service.spec.teacher_sections import Teacher
from service.spec.training_section import Training

SCHEDULES_WITH = {
    "milestones": ("multistep",),
    "decay_factor": ("multistep",),
    "final_fraction": ("cosine", "linear", "poly", "one_cycle"),
    "power": ("poly",),
    "rise_fraction": ("one_cycle",),
    "initial_fraction": ("one_cycle",),
}
"""Which kinds of schedules use a field."""
CROPS_WITH = {
    "scale": ("random_resized",),
    "ratio": ("random_resized",),
    "padding": ("pad_and_crop",),
}
"""Which kinds of crops use a field."""


def check_schedule_kind(schedule: Schedule) -> Iterator[Problem]:
    """No fields of another kind of schedule."""
    yield from fields_of_others("schedule", schedule, "kind", SCHEDULES_WITH)


def check_crop_kind(augmentation: Augmentation) -> Iterator[Problem]:
    """No fields of another kind of crop."""
    yield from fields_of_others("augmentation", augmentation, "crop", CROPS_WITH)


def check_skipped_steps(training: Training) -> Iterator[Problem]:
    """No limit of steps that are skipped where none is."""
    if training.on_nonfinite == "stop":
        why, remedy = 'on_nonfinite is "stop"', 'set on_nonfinite to "skip" or "roll_back"'
        yield from _without_effect("training", training, "max_skipped_steps", why, remedy)


def check_resize_interval(resources: Resources) -> Iterator[Problem]:
    """No interval of checks where the number of workers cannot change."""
    if not resources.is_elastic:
        why, remedy = "num_workers is no range", "give num_workers as [min, max]"
        yield from _without_effect("resources", resources, "resize_interval_s", why, remedy)


def check_measured_images(teacher: Teacher | None) -> Iterator[Problem]:
    """No number of images to measure a threshold on that is not there."""
    if teacher is not None and teacher.min_top1 is None:
        why, remedy = "min_top1 is absent", "set min_top1"
        yield from _without_effect("teacher", teacher, "min_top1_images", why, remedy)


def fields_of_others(
    where: str, section: Section, selector: str, users: Mapping[str, tuple[str, ...]]
) -> Iterator[Problem]:
    """Fields that are set, but not used with the value of ``selector``.

    ``users``: the values that use a field.
    """
    chosen = getattr(section, selector)
    for field, kinds in users.items():
        if chosen not in kinds:
            why = f"{selector} is {json.dumps(chosen)}"
            remedy = f"set {selector} to {' or '.join(map(json.dumps, kinds))}"
            yield from _without_effect(where, section, field, why, remedy)


def _without_effect(
    where: str, section: Section, name: str, why: str, remedy: str
) -> Iterator[Problem]:
    value, field = getattr(section, name), type(section).model_fields[name]
    if value != field.get_default(call_default_factory=True, validated_data=dict(section)):
        wrong = f"is {json.dumps(value)}, but {why}, which makes no use of it"
        yield Problem(f"{where}.{name}", wrong, f"remove it, or {remedy}")
