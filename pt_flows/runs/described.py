"""The description of a run in W&B: flat keys, which filters and groups of a dashboard address, and its pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pt_flows.runs.settings import defining_settings, digest

MEDIA = ("samples", "real", "flow", "flow_animation", "chains")
"""Log keys of pictures and animations."""
MEASURED = ("eval/", "eval_")
"""Beginnings of the log keys of measured numbers, as `section_of` makes them."""
FLAT = ("method", "dataset", "seed", "group", "num_parameters", "parent", "parent_iteration")
"""Keys of a run in W&B beside the sections of its configuration."""


def section_of(weights: str, first: str) -> str:
    """Return the section of the log, before the slash of its keys, for the numbers of some weights.

    Args:
        weights: The weights.
        first: The first weights that the run measures, whose section is the plain one.

    Example:
        >>> section_of("ema", "ema"), section_of("raw", "ema")
        ('eval', 'eval_raw')
    """
    return "eval" if weights == first else f"eval_{weights}"


def flat_config(config: Mapping[str, Any], seed: Any, num: int, parent: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the flat keys of a run.

    `group` is a hash of the configuration without its seed, the same for all seeds of one configuration.

    Args:
        config: The configuration, as YAML reads it.
        seed: Seed of the run.
        num: Number of parameters.
        parent: Record of the checkpoint that the run starts from, if there is one.
    """
    name = lambda section: str(config[section]["class_path"]).rsplit(".", 1)[-1]
    flat = {"method": name("model"), "dataset": name("data"), "seed": seed, "num_parameters": num}
    flat["group"] = digest(defining_settings(config))
    if parent is not None:
        flat |= {"parent": parent_id(Path(parent["checkpoint"])), "parent_iteration": parent["iteration"]}
    return flat


def parent_id(checkpoint: Path) -> str:
    """Return the id of a checkpoint's run, which is also its id in W&B; the file's name if it lies in no run folder."""
    inside = checkpoint.parent.name == "checkpoints"
    return checkpoint.absolute().parent.parent.name.rsplit("-", 1)[-1] if inside else checkpoint.name
