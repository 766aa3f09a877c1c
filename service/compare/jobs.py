"""The jobs of a comparison: what the spec of each variant is, with which seed, in which folder."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from service.compare.spec import CompareSpec, Variant
from service.run.folder import RUNS_NAME
from service.spec.identity import differing_fields
from service.spec.job import JobSpec
from service.sweep.space import Point, given_content, with_shared_cache, with_values

RECIPE_SECTIONS = ("losses", "teacher", "student")
"""What methods differ in; with another change, a variant does not have the same recipe."""


class RunKey(NamedTuple):
    """A run of the comparison."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """Name of the run and of its folder."""
        return f"{self.variant.label}-seed-{self.seed}"


def run_keys(compare: CompareSpec) -> Iterator[RunKey]:
    """All runs, in the order in which they are started: an early look finds complete seeds."""
    for seed in compare.seeds:
        for variant in compare.rows():
            yield RunKey(variant, seed)


def run_path(compare: CompareSpec, key: RunKey) -> Path:
    """The folder of a run."""
    return compare.compare_path / RUNS_NAME / key.name


def variant_content(compare: CompareSpec, variant: Variant) -> dict[str, Any]:
    """The JSON data of a variant's job under the base's name and with its seed."""
    content = with_values(given_content(compare.base), compare.pairs.get(variant.pair, {}))
    content = with_values(content, compare.patches[variant.name])
    if compare.resources is not None:
        content["resources"] = compare.resources.model_dump(mode="json", exclude_unset=True)
    return content


def run_content(compare: CompareSpec, key: RunKey, settings: Point) -> dict[str, Any]:
    """The JSON data of a run's job; ``settings``: what was found for its variant by tuning."""
    content = with_values(variant_content(compare, key.variant), settings)
    content = with_shared_cache(content, compare.base)
    content |= {"name": key.name, "seed": key.seed}
    content["checkpoints"]["storage_path"] = str(run_path(compare, key).parent)
    return content


def run_specs(
    compare: CompareSpec, settings: Mapping[Variant, Point] | None = None
) -> dict[RunKey, JobSpec]:
    """The job specs of all runs of a valid comparison; the files that they name are not read."""
    found = settings or {}
    return {
        key: JobSpec.model_validate(run_content(compare, key, found.get(key.variant, {})))
        for key in run_keys(compare)
    }


def other_recipe(compare: CompareSpec, variant: Variant) -> list[str]:
    """Paths of the variant's changes that are no matter of its losses, teacher or student, and what
    gives it other images than the base has.
    """
    pair = Variant(variant.pair, compare.base_label)
    base, changed = (
        JobSpec.model_validate(variant_content(compare, each)) for each in (pair, variant)
    )
    differing = differing_fields(base, changed)
    paths = [
        path
        for path in compare.patches[variant.name]
        if path.split(".")[0] not in RECIPE_SECTIONS
        and any(field == path or field.startswith(f"{path}.") for field in differing)
    ]
    # Whether a row repeats draws depends on its losses, too: one that needs no teacher does not.
    num_epochs = min(base.schedule.num_epochs, changed.schedule.num_epochs)
    if any(base.draw_epoch(epoch) != changed.draw_epoch(epoch) for epoch in range(num_epochs)):
        paths.append("teacher.cache.epochs")
    return paths
