"""Departures of a run from its recipe: the settings that decide whether its rates and steps still fit."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pt_flows.cli.given import CONFIG, flags

ALIASES = {"32": "32-true", "64": "64-true", "bf16": "bf16-mixed", "None": "32-true"}
"""Short names of precisions, and the default."""


def departures(recipe: Path, trainer: Any, data: Any) -> str:
    """Return the note on batch size, number of devices and precision; empty if they are those of the recipe.

    Args:
        recipe: The first configuration file of the command. Later files and flags have changed parts of it. A number of
            devices that it leaves to the machine is not compared.
        trainer: The trainer of the run.
        data: Its data.
    """
    written = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    there = {
        "batch size": batch_size_in(written, type(data)),
        "number of devices": num_devices_in(written),
        "precision": precision_in(written),
    }
    here = {"batch size": data.batch_size, "number of devices": trainer.world_size, "precision": str(trainer.precision)}
    found = [name for name, value in there.items() if value not in (None, here[name])]
    pairs = [f"{name} is {there[name]} in the recipe and {here[name]} here" for name in found]
    return f"note: {', '.join(pairs)} ({recipe})" if pairs else ""


def changed_key(words: Sequence[str]) -> str:
    """Return the first flag or file that makes a recipe another one than that which was tuned; empty without any.

    Example:
        >>> changed_key(["--config", "a.yaml", "--trainer.max_steps", "5", "--model.step_size", "0.1"])
        'model.step_size'
    """
    given = list(flags(words))
    files = [str(value) for name, value in given if name in CONFIG]
    keys = [name for name, _ in given if name.partition(".")[0] in ("model", "data", "rates") and name != "data.root"]
    return "" if any(name == "run.tuned" for name, _ in given) else next(iter([*keys, *files[1:]]), "")


def section(tree: Any, name: str) -> dict[str, Any]:
    """Return a section of a configuration; empty if there is none."""
    found = tree.get(name) if isinstance(tree, dict) else None
    return found if isinstance(found, dict) else {}


def batch_size_in(recipe: Any, data: type) -> int | None:
    """Return the recipe's batch size, or the default of the data; None if neither is a number."""
    default = inspect.signature(data).parameters.get("batch_size")
    given = section(section(recipe, "data"), "init_args").get("batch_size", default and default.default)
    return given if isinstance(given, int) else None


def num_devices_in(recipe: Any) -> int | None:
    """Return the recipe's number of devices on all nodes; None if the machine decides.

    Example:
        >>> num_devices_in({"trainer": {"devices": [0, 1], "num_nodes": 2}}), num_devices_in({})
        (4, None)
    """
    trainer = section(recipe, "trainer")
    given, nodes = trainer.get("devices", "auto"), trainer.get("num_nodes", 1)
    num = len(given) if isinstance(given, list) else int(given) if str(given).isdigit() else 0
    return num * nodes or None


def precision_in(recipe: Any) -> str:
    """Return the recipe's precision by Lightning's long name.

    Example:
        >>> precision_in({"trainer": {"precision": "bf16"}}), precision_in({})
        ('bf16-mixed', '32-true')
    """
    given = str(section(recipe, "trainer").get("precision"))
    return ALIASES.get(given, given)
