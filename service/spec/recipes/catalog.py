"""All recipes by name, such as cifar100/resnet32x4-resnet8x4/dkd, and the list that is printed."""

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

from service.spec.errors import Problem
from service.spec.recipes import cifar100, cifar100_views, imagenet
from service.spec.recipes.pairs import CIFAR100_PAIRS, IMAGENET_PAIRS, Content, Pair
from service.spec.recipes.results import TOP1
from service.spec.recipes.settings import Method, Settings

NUM_SUGGESTIONS = 3


class Recipe(NamedTuple):
    """A method with its settings for a pair of networks."""

    pair: Pair
    method: Method
    settings: Settings

    @property
    def name(self) -> str:
        """Such as cifar100/resnet32x4-resnet8x4/dkd."""
        return f"{self.pair.name}/{self.method.name}"

    @property
    def source(self) -> str:
        """Where the settings were published."""
        return self.settings.source or self.method.source

    @property
    def top1(self) -> float | None:
        """The published top-1 accuracy, in percent."""
        return TOP1.get(self.name)

    @property
    def has_teacher(self) -> bool:
        """Whether any of its losses compares the student with a teacher."""
        return self.settings.losses.keys() > {"ce", "warmup_epochs"}

    def content(self) -> Content:
        """The sections of a spec, but for the names of files and of the run."""
        learning_rate = {"learning_rate": self.pair.learning_rate}
        sections = {
            **self.pair.benchmark.sections,
            "student": {"model": self.pair.student},
            "losses": self.settings.losses,
        }
        if self.has_teacher:
            sections["teacher"] = {"model": self.pair.teacher}
        sections = merged(sections, {"optimizer": learning_rate})
        return merged(sections, self.settings.sections)


def merged(sections: Content, changes: Mapping[str, Any]) -> Content:
    """The sections with the fields of ``changes`` in place of their own; neither is modified."""
    return sections | {
        name: sections.get(name, {}) | fields if isinstance(fields, dict) else fields
        for name, fields in changes.items()
    }


def _recipes() -> dict[str, Recipe]:
    """In the order of the pairs, then of the methods."""
    recipes = []
    for pairs, methods in (
        (CIFAR100_PAIRS, cifar100.METHODS + cifar100_views.METHODS),
        (IMAGENET_PAIRS, imagenet.METHODS),
    ):
        for pair in pairs:
            for method in methods:
                if settings := method.settings.get(pair.short_name):
                    recipes.append(Recipe(pair, method, settings))
    return {recipe.name: recipe for recipe in recipes}


RECIPES = _recipes()


def unknown_recipe(name: str) -> Problem | None:
    """What is wrong with the name of a recipe; None if it is one.

    Where the pair exists, only its own recipes are suggested.
    """
    if name in RECIPES:
        return None
    of_pair = [known for known in RECIPES if known.startswith(name.rpartition("/")[0] + "/")]
    close = difflib.get_close_matches(name, of_pair or list(RECIPES), NUM_SUGGESTIONS)
    hint = f"did you mean {' or '.join(close)}?" if close else "--recipes lists all"
    return Problem("--recipe", f"is {name!r}, not a known recipe", hint)


def format_recipes() -> str:
    """A line for each recipe: name, published top-1 accuracy, source, and what it is."""
    width = max(map(len, RECIPES))
    source_width = max(len(recipe.source) for recipe in RECIPES.values())
    lines = [f"{'recipe':{width}}  top-1  {'settings from':{source_width}}  method"]
    for recipe in RECIPES.values():
        top1 = "-" if recipe.top1 is None else f"{recipe.top1:.2f}"
        note = recipe.method.note
        lines.append(f"{recipe.name:{width}}  {top1:>5}  {recipe.source:{source_width}}  {note}")
    return "\n".join(lines)
