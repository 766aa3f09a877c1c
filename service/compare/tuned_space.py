"""What is tuned of a variant: its own loss weights and temperatures, each by a sweep."""

from collections.abc import Mapping
from typing import Any

from service.compare.jobs import RunKey, run_content
from service.compare.spec import CompareSpec, Variant
from service.spec.job import JobSpec
from service.spec.losses import TEMPERATURE_FIELDS, LossSection
from service.sweep.spec import Algorithm, Budget, Parameter, Scheduler, SweepSpec

TUNING_NAME = "tuning"
"""Folder of a comparison's folder, with a sweep for each variant that is tuned."""

SEARCH_SEED = 0
WEIGHT_FACTOR = 4.0
TEMPERATURES = (1.0, 8.0)


def tuned_space(spec: JobSpec) -> Mapping[str, Parameter]:
    """The space of a variant's search; empty for labels alone.

    It has the weight of each active loss that needs a teacher, or the weights of its parts where it
    has some, and its temperature where that is a number. Each contains the variant's own value.
    """
    space: dict[str, Parameter] = {}
    for name, section in spec.effective_losses().active.items():
        if section.needs_teacher:
            space |= {f"losses.{name}.{field}": p for field, p in _parameters(section).items()}
    return space


def _parameters(section: LossSection) -> dict[str, Parameter]:
    """Ranges of one loss, by field."""
    found: dict[str, Parameter] = {}
    for field in section.part_weights or ("weight",):
        value = getattr(section, field)
        if value > 0:
            found[field] = Parameter(log=(value / WEIGHT_FACTOR, value * WEIGHT_FACTOR))
    for field in TEMPERATURE_FIELDS:
        value = getattr(section, field, None)
        # Another rule than a number has its own section.
        if isinstance(value, float):
            low, high = TEMPERATURES
            found[field] = Parameter(log=(min(low, value), max(high, value)))
    return found


def search_content(compare: CompareSpec, variant: Variant) -> dict[str, Any]:
    """The JSON data of the job that a row's search starts from, in the folder of searches."""
    # One seed, whatever those of the comparison are, which may come and go.
    content = run_content(compare, RunKey(variant, SEARCH_SEED), {})
    content["checkpoints"]["storage_path"] = str(compare.compare_path / TUNING_NAME)
    return content


def search_spec(compare: CompareSpec, variant: Variant) -> SweepSpec | None:
    """The search of one row; None if it has nothing to tune.

    Every trial is trained to its last epoch, so that all rows cost the same.
    """
    assert compare.tuned is not None, "the caller checks it"
    base = JobSpec.model_validate(search_content(compare, variant))
    space = tuned_space(base)
    if not space:
        return None
    return SweepSpec(
        name=variant.label,
        base=base,
        space=dict(space),
        held_out=compare.tuned.held_out,
        budget=Budget(trials=compare.tuned.trials),
        algorithm=Algorithm(kind="tpe"),
        scheduler=Scheduler(kind="none"),
        progress_interval_s=compare.progress_interval_s,
    )


def tuned_rows(compare: CompareSpec) -> Mapping[Variant, SweepSpec]:
    """The searches of all rows that have something to tune; none without tuning."""
    if compare.tuned is None:
        return {}
    specs = {variant: search_spec(compare, variant) for variant in compare.rows()}
    return {variant: sweep for variant, sweep in specs.items() if sweep is not None}
