"""Rules for a comparison: its patches, names and seeds, and the jobs that follow from them."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, permutations
from typing import Any, TypeVar

from pydantic import JsonValue

from service.compare.jobs import RunKey, run_content, run_keys
from service.compare.spec import CompareSpec, Variant
from service.compare.tuned_space import tuned_rows
from service.spec.errors import BadInputError, Problem
from service.spec.field_problems import field_remedy
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob
from service.sweep.rules import ParseJob, check_sweep
from service.sweep.space import leaf_types

J = TypeVar("J", LoadedJob, JobSpec)

FIXED_FIELDS = {
    "schema_version": "it is the version of the format",
    "name": "each run has its own",
    "seed": "every variant is trained with the same; set seeds of the comparison",
    "evaluation": "runs that are evaluated differently cannot be compared",
    "resources": "all runs have the same size; set resources of the comparison",
    "checkpoints": "all runs share those of the comparison",
    "tracking": "all runs share that of the comparison",
    "dataset.val": "runs that are evaluated on other images cannot be compared",
    "dataset.num_classes": "runs with other classes cannot be compared",
    "dataset.held_out": "val is what runs are compared on; set tuned.held_out to tune on other "
    "images",
}
"""Fields that a patch must not set, and why."""

PAIR_SECTIONS = ("teacher", "student")
MIN_SEEDS = 2


def check_comparison(
    compare: CompareSpec, parse: Callable[[Any], J]
) -> tuple[dict[Variant, J], list[Problem]]:
    """The jobs with the first seed, and every problem of a comparison with valid fields.

    ``parse``: checks a job's spec given as JSON data; raises BadInputError.
    """
    problems = [*_own_problems(compare), *_name_problems(compare)]
    for pair, patch in compare.pairs.items():
        problems += _pair_problems(f"pairs.{pair}", patch)
    for name, patch in compare.variants.items():
        problems += _patch_problems(f"variants.{name}", patch)
    if problems:
        return {}, problems
    jobs, problems = _checked_jobs(compare, parse)
    problems = problems or list(_alike_problems(compare, jobs))
    return jobs, problems or _tuning_problems(compare, parse)


def _own_problems(compare: CompareSpec) -> Iterator[Problem]:
    seeds = compare.seeds
    if repeated := sorted(seed for seed in set(seeds) if seeds.count(seed) > 1):
        yield Problem("seeds", f"has {repeated[0]} twice", "give each seed once")
    if len(set(seeds)) < MIN_SEEDS:
        wrong = "has fewer than two seeds for an interval"
        yield Problem("seeds", wrong, "give at least two, better three or more")
    if not compare.variants and len(compare.pairs) < MIN_SEEDS:
        yield Problem("variants", "is empty", "name at least one variant, or two pairs")
    if compare.base.dataset.held_out is not None:
        remedy = "remove it: runs are compared on val, and tuned.held_out is for choosing settings"
        yield Problem("base.dataset.held_out", "is set", remedy)


def _name_problems(compare: CompareSpec) -> Iterator[Problem]:
    """Names of variants and pairs that give different runs one folder."""
    if compare.base_label in compare.variants:
        wrong = f"is {compare.base_label!r}, which is a variant too"
        yield Problem("base_label", wrong, "choose another label, or rename the variant")
        return
    # Some file systems do not tell upper from lower case.
    owners: dict[str, RunKey] = {}
    for key in run_keys(compare):
        other = owners.setdefault(key.name.casefold(), key)
        if other.variant != key.variant:
            first, second = ("/".join(filter(None, k.variant)) for k in (other, key))
            wrong = f"gives {first} and {second} the same folder, {key.name}"
            where = f"pairs.{key.variant.pair}" if key.variant.pair else "variants"
            yield Problem(where, wrong, "rename one of them")
            return


def _pair_problems(where: str, patch: Mapping[str, JsonValue]) -> Iterator[Problem]:
    if not patch:
        yield Problem(where, "changes nothing", "give it a teacher or a student")
    for path in patch:
        if path.split(".")[0] not in PAIR_SECTIONS:
            remedy = "set it in base or in variants"
            yield Problem(f"{where}.{path}", "is no part of teacher or student", remedy)
            return
    yield from _patch_problems(where, patch)


def _patch_problems(where: str, patch: Mapping[str, JsonValue]) -> Iterator[Problem]:
    """What a patch must not set, and paths that are no fields or contain one another."""
    for path in patch:
        fixed = next((f for f in FIXED_FIELDS if f"{path}.".startswith(f"{f}.")), None)
        within = [f for f in FIXED_FIELDS if f.startswith(f"{path}.")]
        if fixed is not None:
            yield Problem(f"{where}.{path}", "cannot differ from the base", FIXED_FIELDS[fixed])
        elif within:
            wrong = f"replaces {within[0]} too, which cannot differ from the base"
            yield Problem(f"{where}.{path}", wrong, f"name the fields, such as {path}.train")
        elif not leaf_types(path):
            remedy = field_remedy(JobSpec, path.split("."))
            yield Problem(f"{where}.{path}", "is not a field of a job spec", remedy)
    for path, other in permutations(patch, 2):
        if other.startswith(f"{path}."):
            yield Problem(f"{where}.{other}", f"is a part of {path}", "give one of the two")


def _checked_jobs(
    compare: CompareSpec, parse: Callable[[Any], J]
) -> tuple[dict[Variant, J], list[Problem]]:
    """The job of each variant, and problems of invalid ones, each kind of problem once."""
    jobs: dict[Variant, J] = {}
    problems: dict[tuple[str, str], Problem] = {}
    for variant in compare.rows():
        try:
            jobs[variant] = parse(run_content(compare, RunKey(variant, compare.seeds[0]), {}))
        except BadInputError as error:
            for problem in error.problems:
                where = place_of_field(compare, variant, problem.where)
                problems.setdefault((problem.where, problem.wrong), problem._replace(where=where))
    return jobs, list(problems.values())


def place_of_field(compare: CompareSpec, variant: Variant, field: str) -> str:
    """Where the user may have written what is wrong with a field of a variant's job."""
    if compare.resources is not None and field.split(".")[0] == "resources":
        return field
    is_of_pair = variant.pair and field.split(".")[0] in PAIR_SECTIONS
    if compare.is_base(variant) and not is_of_pair:
        return f"base.{field}"
    return f"{_place(compare, variant)}: {field}"


def _place(compare: CompareSpec, variant: Variant) -> str:
    """The field that makes the job of a variant what it is."""
    if compare.is_base(variant):
        return f"pairs.{variant.pair}" if variant.pair else "base"
    return f"variants.{variant.name}"


def _alike_problems(compare: CompareSpec, jobs: Mapping[Variant, J]) -> Iterator[Problem]:
    """Pairs that would train the same students, and variants that would.

    One variant of two pairs may: without a teacher, pairs that differ in it alone are alike.
    """
    hashes: dict[Variant, str] = {}
    owners: dict[str, list[Variant]] = defaultdict(list)
    for variant, job in jobs.items():
        spec = job.spec if isinstance(job, LoadedJob) else job
        hashes[variant] = spec.model_copy(update={"name": compare.name}).content_hash()
        owners[hashes[variant]].append(variant)
    seen = set()
    for first, other in (two for alike in owners.values() for two in combinations(alike, 2)):
        where, like = _place(compare, other), first.name
        if first.name == other.name:
            rows = [(Variant(first.pair, n), Variant(other.pair, n)) for n in compare.patches]
            if any(hashes[one] != hashes[two] for one, two in rows):
                continue
            where, like = f"pairs.{other.pair}", first.pair
        if where not in seen:
            seen.add(where)
            yield Problem(where, f"is the same as {like}", "change it, or remove one of them")


def _tuning_problems(compare: CompareSpec, parse: ParseJob) -> list[Problem]:
    """Problems of the searches, each kind of problem once."""
    problems: dict[tuple[str, str], Problem] = {}
    for variant, sweep in tuned_rows(compare).items():
        for problem in check_sweep(sweep, parse):
            problems.setdefault((problem.where, problem.remedy), _of_search(variant, problem))
    return list(problems.values())


def _of_search(variant: Variant, problem: Problem) -> Problem:
    """A problem of a row's search, at the field of the comparison that it follows from."""
    field = problem.where
    if field.startswith(("space", "base")):
        return problem._replace(where=f"tuned, {variant.label}: {field}")
    if field.startswith("held_out"):
        return problem._replace(where=f"tuned.{field}")
    # The variant's job is valid: what is wrong comes from the images that are held out.
    wrong = f"leaves trials whose {field} {problem.wrong}"
    remedy = f"hold out fewer images, or {problem.remedy}"
    return Problem("tuned.held_out.num_images", wrong, remedy)
