"""Reads and checks specs of comparisons: the job of every variant of every pair must be valid."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from service.compare.jobs import RunKey, run_specs
from service.compare.rules import check_comparison
from service.compare.spec import CompareSpec, Variant
from service.spec.errors import BadInputError
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob, parse_job, read_json
from service.sweep.loading import parse_fields, with_absolute_paths
from service.sweep.space import Point


class LoadedComparison(NamedTuple):
    """A valid comparison; ``jobs``: of each variant, under the name of its run with one seed."""

    compare: CompareSpec
    jobs: Mapping[Variant, LoadedJob]

    @property
    def base(self) -> LoadedJob:
        """The job of the base, under the comparison's name."""
        return self.jobs[next(self.compare.rows())]._replace(spec=self.compare.as_job())

    def run_specs(self, settings: Mapping[Variant, Point] | None = None) -> dict[RunKey, JobSpec]:
        """The job specs of all runs, with absolute paths; ``settings``: found by tuning."""
        return {
            key: self.with_paths(spec, key.variant)
            for key, spec in run_specs(self.compare, settings).items()
        }

    def with_paths(self, spec: JobSpec, variant: Variant) -> JobSpec:
        """A job of a variant with what was resolved when it was checked, such as its paths."""
        checked = self.jobs[variant].spec
        names = ("dataset", "teacher", "student")
        return spec.model_copy(update={name: getattr(checked, name) for name in names})


def load_comparison(path: Path) -> LoadedComparison:
    """Read and check a comparison; its relative paths are relative to the current directory.

    Raises:
        BadInputError: with every problem found in the JSON text, the fields, the files that they
            name and the jobs of the variants.
    """
    return parse_comparison(read_json(path), subject=str(path))


def parse_comparison(content: Any, subject: str = "comparison") -> LoadedComparison:  # noqa: ANN401 - it is JSON
    """Check a comparison given as JSON data and make its paths absolute.

    Raises:
        BadInputError: with every problem found.
    """
    compare = with_absolute_paths(parse_comparison_fields(content, subject))
    jobs, problems = check_comparison(compare, parse_job)
    if problems:
        raise BadInputError(subject, problems)
    return LoadedComparison(compare, jobs)


def parse_comparison_fields(content: Any, subject: str) -> CompareSpec:  # noqa: ANN401 - it is JSON
    """A comparison with valid fields, whatever its jobs are; its paths are as given.

    Raises:
        BadInputError: with every problem found.
    """
    compare = parse_fields(content, CompareSpec, subject)
    base = compare.base
    # No student of a comparison is registered: none of them is the one that was wanted.
    tracking = base.tracking.model_copy(update={"register_as": None, "promote": None})
    return compare.model_copy(update={"base": base.model_copy(update={"tracking": tracking})})
