"""Builds what the runs of a comparison need: models and weights, once for each pair of networks."""

from collections.abc import Mapping
from typing import NamedTuple

from service.build import BuiltJob, build_job
from service.compare.jobs import RunKey, run_keys
from service.compare.loading import LoadedComparison
from service.compare.networks import check_networks, networks_key
from service.compare.spec import Variant
from service.plan import build_models_on_meta, check_weights_fit
from service.provenance import provenance_tags
from service.run.claim import check_inputs, has_started
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob
from service.spec.sections import Student
from service.spec.teacher_classes import classes_tags, with_resolved_classes
from service.spec.teacher_sections import Teacher

SCRIPT = "jobs/compare.py"
DIGEST_SUFFIX = "_sha256"


class BuiltVariant(NamedTuple):
    """``student``, ``teacher``: with files as sources of weights. ``tags``: of the runs."""

    student: Student
    teacher: Teacher | None
    tags: Mapping[str, str]


def check_models(loaded: LoadedComparison) -> None:
    """Check that the models of all variants can be built and accept the image sizes.

    Raises:
        BadInputError: a model cannot be built or does not accept its image size.
    """
    check_networks(loaded, lambda job: build_models_on_meta(job.spec))


def check_files_fit(loaded: LoadedComparison) -> list[str]:
    """Check that local files of weights fit the models of all variants; a line for each choice.

    Raises:
        BadInputError: they do not fit.
    """
    lines: list[str] = []
    check_networks(loaded, lambda job: lines.extend(check_weights_fit(job.spec)))
    return list(dict.fromkeys(lines))


def build_variants(
    loaded: LoadedComparison, specs: Mapping[RunKey, JobSpec]
) -> dict[Variant, BuiltVariant]:
    """Build the models of every variant; those with the same networks read the same files.

    Raises:
        BadInputError: a model or weights that cannot be used, or that are not those with which runs
            were started.
    """
    built: dict[str, BuiltJob] = {}
    found: dict[Variant, BuiltVariant] = {}
    keys = list(run_keys(loaded.compare))
    # A run that has started knows which weights were fetched for it.
    keys.sort(key=lambda key: not has_started(specs[key].run_path))
    for key in keys:
        spec, variant = specs[key], key.variant
        networks = networks_key(spec)
        if networks not in built:
            built[networks] = _with_classes(build_job(spec), loaded.jobs[variant])
        built_spec, digests = built[networks]
        check_inputs(spec, digests)
        if variant not in found:
            tags = provenance_tags(loaded.jobs[variant], digests, SCRIPT)
            # Each run has its own.
            del tags["spec_hash"]
            tags |= {"comparison": loaded.compare.name, "variant": variant.name}
            if variant.pair:
                tags["pair"] = variant.pair
            found[variant] = BuiltVariant(built_spec.student, built_spec.teacher, tags)
    return found


def _with_classes(built: BuiltJob, job: LoadedJob) -> BuiltJob:
    """A built job with the teacher's classes as indices, and their digests."""
    spec = with_resolved_classes(built.spec, job.classes)
    return BuiltJob(spec, {**built.digests, **classes_tags(spec)})


def weights_tags(built: Mapping[Variant, BuiltVariant]) -> dict[str, str]:
    """Digests of the weights, with those of a pair under its name."""
    tags: dict[str, str] = {}
    for variant, one in built.items():
        prefix = f"{variant.pair}." if variant.pair else ""
        for name, digest in one.tags.items():
            if name.endswith(DIGEST_SUFFIX):
                tags.setdefault(f"{prefix}{name}", digest)
    return tags
