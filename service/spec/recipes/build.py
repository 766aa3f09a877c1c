"""Writes the spec of a recipe for a user's files."""

from pathlib import Path
from typing import NamedTuple

from data_pipeline.facts import DatasetFacts
from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.loading import parse_spec
from service.spec.paths import absolute_path
from service.spec.recipes.catalog import Recipe, merged
from service.spec.recipes.pairs import Content
from service.spec.template import cpus_per_worker, facts_of, num_classes_of


class Files(NamedTuple):
    """What the user gives, paths as given. ``weights``: of the teacher; None: the published."""

    train: str
    val: str
    weights: str | None
    storage_path: Path
    name: str | None = None


def weights_problem(recipe: Recipe, weights: str | None) -> str | None:
    """What is wrong with --weights for a recipe, given or not."""
    pair = recipe.pair
    if weights is not None and not recipe.has_teacher:
        return f"--weights is of a teacher, but {recipe.name} has none"
    if weights is None and pair.weights is None and recipe.has_teacher:
        teacher = pair.teacher.rpartition(":")[2]
        return f"--recipe {recipe.name} needs --weights, those of a trained {teacher}"
    return None


def recipe_spec(recipe: Recipe, files: Files) -> JobSpec:
    """The spec of a recipe, which trains on the user's files.

    Raises:
        BadInputError: files that cannot be read or that are of another dataset, or weights that do
            not fit.
    """
    facts = facts_of({"--train": files.train, "--val": files.val, "--weights": files.weights})
    _check_classes(recipe, facts, files.train)
    changes: Content = {
        "name": files.name or recipe.name.replace("/", "-"),
        "dataset": {"train": files.train, "val": files.val},
        "resources": {"cpus_per_worker": cpus_per_worker()},
        "checkpoints": {"storage_path": str(absolute_path(files.storage_path))},
    }
    if recipe.has_teacher:
        changes["teacher"] = _teacher(recipe, files.weights)
    return parse_spec(merged(recipe.content(), changes))


def _teacher(recipe: Recipe, weights: str | None) -> Content:
    """A threshold goes with the published weights only: others are the user's own."""
    pair = recipe.pair
    teacher: Content = {"weights": {"source": weights or pair.weights}}
    if weights is None and pair.min_top1 is not None:
        teacher["min_top1"] = pair.min_top1
    return teacher


def _check_classes(recipe: Recipe, facts: DatasetFacts, train: str) -> None:
    if facts.is_unlabeled:
        remedy = "give labeled images, or write a spec for yours with --student and --teacher"
        wrong = f"{train} has images without labels, which published settings need"
        raise BadInputError("arguments", [Problem("--train", wrong, remedy)])
    found, expected = num_classes_of(facts), recipe.pair.benchmark.num_classes
    if found != expected:
        wrong = f"{train} has {found} classes, {recipe.pair.benchmark.name} has {expected}"
        remedy = "give that dataset, or write a spec for yours with --student and --teacher"
        raise BadInputError("arguments", [Problem("--train", wrong, remedy)])
