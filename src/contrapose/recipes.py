"""Recipes, whole runs in a file each, by name wherever the package is installed."""

from __future__ import annotations

from pathlib import Path

_OF_PAIRS = "pairs-"  # begins the names of those that make pairs; the others train
_YAML = (".yaml", ".yml")


def recipe_names(of_pairs: bool = False) -> list[str]:
    """The recipes of runs, or those that make pairs."""
    return sorted(path.stem for path in _folder().glob("*.yaml") if path.stem.startswith(_OF_PAIRS) == of_pairs)


def settings_file(name: str) -> Path | None:
    """The file of settings that somebody names: a path, or a recipe's name; None for what is neither.

    A path of no file that is a recipe's in a checkout, such as recipes/sd15-ddspo.yaml, is that recipe.
    """
    path = Path(name)
    if path.suffix in _YAML and path.is_file():
        return path
    recipe = _folder() / f"{path.stem if path.suffix in _YAML else path.name}.yaml"
    is_named = path.parent in (Path(), Path("recipes"))
    if is_named and recipe.stem in (*recipe_names(), *recipe_names(of_pairs=True)):
        return recipe
    return path if path.suffix in _YAML else None


def _folder() -> Path:
    """Where recipes are: in an installed package beside this file, in a checkout at its top."""
    shipped = Path(__file__).with_name("shipped") / "recipes"
    return shipped if shipped.is_dir() else Path(__file__).parents[2] / "recipes"
