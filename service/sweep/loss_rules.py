"""Rules about a space that has fields of losses."""

from collections.abc import Iterator

from service.spec.errors import Problem
from service.spec.losses import Losses, LossSection
from service.spec.reference import nested_sections
from service.sweep.space import leaf_types
from service.sweep.spec import SweepSpec


def teacher_problems(sweep: SweepSpec) -> Iterator[Problem]:
    """A teacher where a loss is searched that compares the student with one."""
    if sweep.base.teacher is not None or "teacher" in sweep.space:
        return
    for path in sweep.space:
        kind = _loss_of(path)
        if kind is not None and kind.needs_teacher:
            yield Problem(
                "base.teacher",
                f"is absent, but {path} is searched",
                "add a teacher, or search other fields",
            )
            return


def absent_loss_problems(sweep: SweepSpec) -> Iterator[Problem]:
    """Losses whose fields are searched are in the base.

    A point would otherwise add a loss to the total that the base does not have.
    """
    base = sweep.base.effective_losses()
    for path in sweep.space:
        _, name, *field = (*path.split("."), "")
        is_field = _loss_of(path) is not None and any(field) and leaf_types(path)
        if is_field and getattr(base, name) is None:
            is_default = "space" not in sweep.model_fields_set
            where = "space" if is_default else f"space.{path}"
            wrong = f"is left out, and has {path}" if is_default else f"is a field of losses.{name}"
            remedy = "give a space" if is_default else "search another field"
            yield Problem(
                where, f"{wrong}, which base.losses does not have", f"add it there, or {remedy}"
            )


def _loss_of(path: str) -> type[LossSection] | None:
    """The kind of the loss that a path is in; None if it is in none."""
    section, _, field = path.partition(".")
    found = Losses.model_fields.get(field.split(".")[0])
    if section != "losses" or found is None:
        return None
    kinds = [kind for _, kind in nested_sections(found.annotation)]
    return next((kind for kind in kinds if issubclass(kind, LossSection)), None)
