"""The spec of a comparison: a base, variants that change some of its fields, and seeds.

Imports neither torch nor ray, like the job spec.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, JsonValue

from service.spec.data_sections import HeldOut
from service.spec.fields import Count, Items, Section, ShortName
from service.spec.job import JobSpec
from service.spec.many_jobs import ManyJobs
from service.spec.sections import Resources

COMPARE_NAME = "compare.json"

Patch = Annotated[dict[str, JsonValue], Field(max_length=100)]
Patches = Annotated[dict[ShortName, Patch], Field(max_length=100)]
NO_PATCHES: dict[str, dict[str, JsonValue]] = {}
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Variant(NamedTuple):
    """A row of the comparison: a variant, or the base, of a pair; ``pair``: "" without pairs."""

    pair: str
    name: str

    @property
    def label(self) -> str:
        """One name of both, as folders have it."""
        return f"{self.pair}-{self.name}" if self.pair else self.name


class Tuned(Section):
    """Each variant is compared with its best settings, all found with the same number of trials."""

    trials: Count
    """Trials of each variant, the base included. They search the weights of the losses that need a
    teacher (log, a quarter to four times the variant's own) and their temperatures, where these are
    numbers (log, 1 to 8). The variant's own settings are the first trial."""
    held_out: HeldOut
    """Images of train that the trials are scored on and not trained on. They do not read val; the
    runs that are compared train on all images of train."""


class CompareSpec(ManyJobs):
    """A complete comparison. The base is always one of its rows."""

    base: JobSpec
    """The job that the variants change: a job spec, or the path of its file, relative to the
    current directory. Its name, seed, tracking.register_as and tracking.promote do not apply."""
    base_label: ShortName = "base"
    """Name of the base in tables and folders."""
    variants: Patches = NO_PATCHES
    """What is compared with the base, by name: values by the dotted path of the field of a job spec
    that they set. {"losses.kd.weight": 2} sets a field, {"losses": {...}} replaces a section,
    {"teacher": null} removes one."""
    seeds: Annotated[Items[Seed], Field(max_length=100)] = (0, 1, 2)
    """Each variant is trained once with each. Runs with the same seed see the same images in the
    same order and start from the same weights."""
    pairs: Patches = NO_PATCHES
    """Pairs of teacher and student, by name: values of fields of both. Every variant is trained for
    every pair, and compared with the base of that pair. Left out: those of the base."""
    tuned: Tuned | None = None
    """Absent: all losses have the weights and temperatures that the base and the variants have."""
    resources: Resources | None = None
    """Resources of each run. Absent: those of base."""
    concurrency: Count | None = None
    """Number of runs at a time. Absent: the most that fit on the cluster at the start."""
    max_failures: Annotated[int, Field(ge=0)] = 1
    """Times that a failed run is started again from its checkpoint, in addition to the worker
    failures that resources allows. After that, it counts as failed until the next submission."""
    progress_interval_s: Count = 30
    """Seconds between two tables of progress in the log."""

    @property
    def compare_path(self) -> Path:
        """The comparison's folder."""
        return self.as_job().run_path

    @property
    def patches(self) -> Mapping[str, Patch]:
        """What each variant changes; first the base, which changes nothing."""
        return {self.base_label: {}, **self.variants}

    def rows(self) -> Iterator[Variant]:
        """Every variant of every pair, the base first."""
        for pair in self.pairs or ("",):
            for name in self.patches:
                yield Variant(pair, name)

    def is_base(self, variant: Variant) -> bool:
        """Whether it is the base of its pair."""
        return variant.name == self.base_label
