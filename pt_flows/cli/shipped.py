"""Recipes of the package, found by name: `--config toy2d/w1_fe` works without a file."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import pt_flows
from pt_flows.cli.given import CONFIG
from pt_flows.errors import UserError


def recipe_folder() -> Path:
    """The folder of all recipes: inside an installed package, or `configs` of a checkout."""
    package = Path(pt_flows.__file__).parent
    return package / "recipes" if (package / "recipes").is_dir() else package.parent / "configs"


def recipe_names() -> list[str]:
    """Names of all recipes and of the files that change parts of them, such as toy2d/w1_fe."""
    folder = recipe_folder()
    files = [file for file in folder.rglob("*.yaml") if not file.name.endswith(".space.yaml")]
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in files)


def recipe_file(text: str, key: str = "--config") -> str:
    """Return the file that a word means: itself if it exists or ends with .yaml, or else the recipe of this name.

    Args:
        text: The word.
        key: The key or flag with this value, for the error.

    Raises:
        UserError: There is neither. The error tells the nearest names.
    """
    if not text:
        raise UserError(f"{key}: expected a file or the name of a recipe, got none. Name one, such as toy2d/w1_fe")
    if Path(text).exists() or text.endswith((".yaml", ".yml")):
        return text
    names, name = recipe_names(), text.removeprefix("configs/")
    if name in names:
        return str(recipe_folder() / f"{name}.yaml")
    near = " or ".join(get_close_matches(name, names, 3, 0.0))
    raise UserError(f"{key}: expected a file or the name of a recipe, got {text}, which is neither. Use {near}")


def with_recipes(words: Sequence[str]) -> list[str]:
    """Return a command line whose configuration files named by recipes are paths.

    Raises:
        UserError: As for `recipe_file`.
    """
    found, flags = list(words), {f"--{name}" for name in CONFIG} | {"-c"}
    for i, word in enumerate(words):
        name, assigned, value = word.partition("=")
        if name not in flags:
            continue
        if assigned:
            found[i] = f"{name}={recipe_file(value)}"
        elif i + 1 < len(words) and not words[i + 1].startswith("-"):
            found[i + 1] = recipe_file(words[i + 1])
    return found
