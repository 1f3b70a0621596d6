"""Parts of configurations that runs share, and the differences between the configurations of two runs."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DEFINING = ("data", "model", "seed_everything")
"""Sections that define an experiment: `last` and `best` mean a run with the same ones."""
NAMED = (*DEFINING, "rates", "evaluation", "perf", "trainer.max_steps", "trainer.precision")
"""Settings whose changes are printed when a run continues."""
OWN = ("seed_everything", "run", "ckpt_path")
"""Keys of a configuration in which runs of one group may differ."""
INCIDENTAL = ("iterations_per_block", "activation_checkpointing")
"""Arguments that change no number."""

Differences = dict[str, tuple[Any, Any]]


def defining_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that all seeds of a run have in common. A section without a value says nothing."""
    return {key: value for key, value in config.items() if key not in OWN and value is not None}


def as_text(tree: Any) -> str:
    """A configuration, a protocol or other plain data as text, the same for equal ones."""
    return json.dumps(tree, sort_keys=True, default=str)


def digest(tree: Any) -> str:
    """Eight hexadecimal digits, the same for equal plain data."""
    return hashlib.sha256(as_text(tree).encode()).hexdigest()[:8]


def differences(there: Any, here: Any, key: str = "") -> Differences:
    """Return the dotted keys whose values differ, with both values.

    Arguments that only one side has are from another version of a class and are not compared.

    Args:
        there: A configuration, as YAML reads it.
        here: Another one.
        key: The key of both in a larger configuration.

    Example:
        >>> differences({"data": {"class_path": "a.Toy", "init_args": {"n": 1}}}, {"data": {"class_path": "a.Toy",
        ...     "init_args": {"n": 2, "new": 0}}})
        {'data.n': (1, 2)}
    """
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        if "class_path" in there and "class_path" in here and there["class_path"] != here["class_path"]:
            return {key: (there["class_path"], here["class_path"])}
        found = {}
        for name in (name for name in there if name in here and name not in INCIDENTAL):
            found |= differences(there[name], here[name], key if name == "init_args" else f"{key}.{name}".lstrip("."))
        extra = there.get("dict_kwargs") or {}, here.get("dict_kwargs") or {}  # arguments that the class does not name
        return found if extra[0] == extra[1] else found | {f"{key}.dict_kwargs": extra}
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = enumerate(zip(there, here, strict=True))
        return {name: v for i, (a, b) in pairs for name, v in differences(a, b, f"{key}[{i}]").items()}
    return {} if there == here else {key: (there, here)}


def within(found: Differences, sections: tuple[str, ...]) -> Differences:
    """Return the differences in some sections."""
    return {key: v for key, v in found.items() if any(key == s or key.startswith((f"{s}.", f"{s}[")) for s in sections)}


def told(found: Differences) -> str:
    """Return differences in one line, with the recorded and the current value."""
    return ", ".join(f"{key} ({short(there)} there, {short(here)} here)" for key, (there, here) in found.items())


def short(value: Any) -> str:
    """Return a value as text that fits into a sentence."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
