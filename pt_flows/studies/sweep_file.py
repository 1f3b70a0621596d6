"""The file of a W&B sweep, checked before the sweep is made."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pt_flows.cli.given import check_yaml
from pt_flows.errors import UserError
from pt_flows.studies.sections import Section, mapping, text
from pt_flows.studies.space import number

KEYS = ("method", "metric", "parameters", "name", "description", "entity", "early_terminate", "run_cap")
"""Keys of W&B's file."""
OWN = {"command": "Remove it", "program": "Remove it", "project": "Use --run.project"}
"""Keys of W&B's file that the command sets, and what to do instead."""
METHODS = ("bayes", "grid", "random")
GOALS = ("minimize", "maximize")
ENDS = ("min", "max", "mu", "sigma", "q")
"""Keys of a parameter whose values are numbers."""
OPTIONS = ("distribution", "value", "values", "probabilities", *ENDS)
"""Keys of a parameter."""


def read_sweep(file: Path) -> dict[str, Any]:
    """Read a sweep file. Numbers such as 1e-4, which YAML reads as texts, become numbers.

    Raises:
        UserError: It cannot be read, has no parameters, sets what the command sets, or has an unknown key or method.
    """
    try:
        wrong = check_yaml(file, "keys such as method and parameters", "method: random")
    except OSError as error:
        raise UserError(f"sweep: expected a file, got {file} ({error.strerror}). Check the path") from error
    if wrong:
        raise UserError(wrong)
    top = mapping(Section(file, "", {}), "", yaml.safe_load(file.read_text(encoding="utf-8")))
    for key, advice in OWN.items():
        if key in top.content:
            raise top.wrong(key, "no such key, because this command sets it", "one", advice)
    top.only(KEYS)
    if (method := top.get("method", text)) not in METHODS:
        raise top.wrong("method", f"one of {', '.join(METHODS)}", method, "Correct it")
    if "metric" in top.content or method == "bayes":
        metric = top.get("metric", mapping)
        if "/" not in (name := metric.get("name", text)):
            raise metric.wrong("name", "a number of the log", name, "Write, for example, eval/w2_512.min")
        if "goal" in metric.content and (goal := metric.get("goal", text)) not in GOALS:
            raise metric.wrong("goal", f"one of {', '.join(GOALS)}", goal, "Correct it")
    given = top.get("parameters", mapping)
    if not given.content:
        raise top.wrong("parameters", "keys of fit", None, "Add, for example, model.step_size: {min: 0.1, max: 1.0}")
    return {**top.content, "parameters": {key: parameter(given, key) for key in given.content}}


def parameter(given: Section, key: str) -> dict[str, Any]:
    """Return the values or the range of one key of `fit`.

    Raises:
        UserError: It has neither, or a key that is unknown.
    """
    own = given.get(key, mapping)
    if "parameters" in own.content:
        raise given.wrong(key, "a dotted key of fit", "parameters inside it", f"Write {key}.NAME: {{...}}")
    own.only(OPTIONS)
    numbers = {name: number(own.content[name], f"{own.file}: {own.key}.{name}") for name in ENDS if name in own.content}
    read = {**own.content, **numbers}
    if "min" in read and "max" in read and not read["min"] < read["max"]:
        raise given.wrong(key, "min below max", own.content, "Exchange them, or write value")
    if not extremes(read):
        raise given.wrong(key, "value, values, or min and max", own.content, "Write, for example, {values: [1, 5]}")
    return read


def extremes(how: Mapping[str, Any]) -> list[Any]:
    """Return the values of a parameter, or the ends of its range; an empty list if it has neither.

    Args:
        how: The parameter as in W&B's file.

    Example:
        >>> extremes({"values": [3, 4, 5]}), extremes({"min": 0.1, "max": 1.0}), extremes({"value": None})
        ([3, 4, 5], [0.1, 1.0], [None])
        >>> extremes({"distribution": "log_uniform", "min": 0.0, "max": 0.0}), extremes({"mu": 2, "sigma": 1})
        ([1.0, 1.0], [2])
    """
    if "value" in how:
        return [how["value"]]
    if isinstance(values := how.get("values"), list):
        return values
    found = [how[name] for name in (("mu",) if "mu" in how else ("min", "max")) if name in how]
    kind = str(how.get("distribution"))
    if "log_" not in kind or kind.endswith("_values"):
        return found
    return [math.exp(-end if kind.startswith("inv_") else end) for end in found]


def commands(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return values for all keys of a sweep, so that each of their values, or each end of their ranges, is among them.

    Args:
        parameters: The parameters of a sweep file.

    Example:
        >>> commands({"a": {"values": [1, 2, 3]}, "b": {"min": 0.1, "max": 1.0}})
        [{'a': 1, 'b': 0.1}, {'a': 2, 'b': 1.0}, {'a': 3, 'b': 1.0}]
    """
    ends = {key: extremes(how) for key, how in parameters.items()}
    num = max(map(len, ends.values()))
    return [{key: values[min(i, len(values) - 1)] for key, values in ends.items()} for i in range(num)]
