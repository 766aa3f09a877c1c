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
    """Losses whose fields are searched are in the base, or chosen as a whole.

    A point would otherwise add a loss to the total that the base does not have.
    """
    base, chosen = sweep.base.effective_losses(), sweep.space.keys()
    for path in sweep.space:
        parts = path.split(".")
        loss = ".".join(parts[:2])
        is_field = _loss_of(path) is not None and len(parts) > 2 and leaf_types(path)
        if not is_field or {"losses", loss} & chosen:
            continue
        if getattr(base, parts[1]) is None:
            is_default = "space" not in sweep.model_fields_set
            where = "space" if is_default else f"space.{path}"
            wrong = f"is left out, and has {path}" if is_default else f"is a field of {loss}"
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
