"""Ready specs with published settings: pairs of networks x methods of distillation."""

from service.spec.recipes.build import Files, recipe_spec, weights_problem
from service.spec.recipes.catalog import RECIPES, Recipe, format_recipes, unknown_recipe

__all__ = [
    "RECIPES",
    "Files",
    "Recipe",
    "format_recipes",
    "recipe_spec",
    "unknown_recipe",
    "weights_problem",
]
