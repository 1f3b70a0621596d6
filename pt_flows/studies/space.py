"""Search spaces: ranges and choices for keys of a recipe.

A file beside the recipe (`wgan_gp.space.yaml` for `wgan_gp.yaml`) has the keys of flags:

    model.generator.optimizer.lr: {low: 1.0e-4, high: 3.0e-3, log: true}
    model.penalty: [one_sided, two_sided]
    model.inequality_weight, model.interpolated_weight: {low: 2.0, high: 600.0, log: true}     # one number for both

A range with whole numbers as both ends has whole numbers only.
"""

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pt_flows.cli.given import check_yaml
from pt_flows.errors import UserError
from pt_flows.studies.options import flags

Scalar = bool | int | float | str | None
DIGITS = 3
"""Significant digits of the numbers that are tried."""


@dataclass(frozen=True)
class Dimension:
    """The range or the choices of one value.

    Attributes:
        keys: The keys that have this value.
        low: Least number.
        high: Greatest number.
        log: Whether the logarithm is drawn uniformly.
        choices: All values, instead of a range.
    """

    keys: tuple[str, ...]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Scalar, ...] = ()

    @property
    def name(self) -> str:
        """All keys."""
        return ", ".join(self.keys)

    @property
    def is_whole(self) -> bool:
        """Whether this is a range of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def distribution(self) -> Any:
        """The distribution of Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        kind: Any = IntDistribution if self.is_whole else FloatDistribution
        return kind(self.low, self.high, log=self.log)

    def __contains__(self, value: Any) -> bool:
        if self.choices:
            return any(
                value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in self.choices
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and (not self.is_whole or value == int(value))

    def __str__(self) -> str:
        if self.choices:
            return f"one of {', '.join(map(as_word, self.choices))}"
        return f"a{' whole' if self.is_whole else ''} number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        where: Its file, or another name for errors.
        dimensions: Its dimensions.
    """

    where: str
    dimensions: tuple[Dimension, ...]

    @property
    def distributions(self) -> dict[str, Any]:
        """The distributions of Optuna by the names of the dimensions."""
        return {dimension.name: dimension.distribution for dimension in self.dimensions}

    def extremes(self) -> dict[str, list[str]]:
        """Flags that give every key its least, its greatest, or each of its choices, by descriptions for errors."""
        num = max([2, *(len(dimension.choices) for dimension in self.dimensions)])
        found = {}
        for i in range(num):
            picked = {d: (d.choices or (d.low, d.high))[min(i, len(d.choices or "ab") - 1)] for d in self.dimensions}
            values = {key: value for dimension, value in picked.items() for key in dimension.keys}
            found[f"{self.where}, {('lowest values', 'highest values')[i] if i < 2 else f'choices {i + 1}'}"] = flags(
                values
            )
        return found

    def own(self, config: Mapping[str, Any]) -> dict[str, Scalar]:
        """Return the values that a recipe itself has, by the names of the dimensions.

        Args:
            config: Its complete configuration.

        Raises:
            UserError: A key does not exist, keys of one dimension differ, or the recipe lies outside the space.
        """
        found: dict[str, Scalar] = {}
        for dimension in self.dimensions:
            values = {key: value_at(config, key, self.where) for key in dimension.keys}
            first = next(iter(values.values()))
            if any(value != first for value in values.values()):
                told = ", ".join(f"{key} = {as_word(value)}" for key, value in values.items())
                raise UserError(f"{self.where}: expected one value for several keys in the recipe, got {told}")
            if first not in dimension:
                advice = "The first trial is the recipe itself: widen the space, or change the recipe"
                got = f"{as_word(first)} in the recipe"
                raise UserError(f"{self.where}: {dimension.name}: expected {dimension}, got {got}. {advice}")
            found[dimension.name] = int(first) if dimension.is_whole and isinstance(first, float) else first
        return found

    def values(self, config: Mapping[str, Any], proposed: Mapping[str, Any]) -> dict[str, Scalar]:
        """Return values for the keys of a recipe, with few digits and of the recipe's own types.

        Args:
            config: The complete configuration of the recipe. Its own values are kept to the last digit.
            proposed: Values by the names of the dimensions.
        """
        found: dict[str, Scalar] = {}
        for dimension in self.dimensions:
            value = proposed[dimension.name]
            for key in dimension.keys:
                own = value_at(config, key, self.where)
                if isinstance(own, float) and isinstance(value, int) and not isinstance(value, bool):
                    value = float(value)
                if isinstance(value, float) and not dimension.choices and value != own:
                    value = min(max(float(f"{value:.{DIGITS}g}"), float(dimension.low)), float(dimension.high))
                found[key] = value
        return found

    def applied(
        self, words: Sequence[str], config: Mapping[str, Any], proposed: Mapping[str, Any]
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Return the arguments of `fit` and the complete configuration of a recipe with proposed values."""
        values = self.values(config, proposed)
        return (*words, *flags(values)), changed(config, values)


def read_space(path: Path) -> Space:
    """Read a file with a search space.

    Raises:
        UserError: There is no such file, or it has a mistake.
    """
    try:
        wrong = check_yaml(path, "keys with ranges or choices", "model.step_size: {low: 0.03, high: 1.0, log: true}")
    except OSError as error:
        advice = "Write one beside the recipe, or name another with --space"
        raise UserError(f"--space: expected a file, got {path} ({error.strerror}). {advice}") from error
    if wrong:
        raise UserError(wrong)
    return parsed_space(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))


def parsed_space(tree: Any, where: str) -> Space:
    """Read a search space from its YAML tree.

    Args:
        tree: A range or a list of choices for each key.
        where: Its file, or another name for errors.

    Raises:
        UserError: It has a mistake.

    Example:
        >>> space = parsed_space({"model.step_size": {"low": "1e-2", "high": 1.0, "log": True}}, "a.yaml")
        >>> space.dimensions[0].low, str(space.dimensions[0])
        (0.01, 'a number from 0.01 to 1')
    """
    if not isinstance(tree, Mapping) or not tree:
        example = "model.step_size: {low: 0.03, high: 1.0, log: true}"
        raise UserError(
            f"{where}: expected keys with ranges or choices, got {as_word(tree)}. Write, for example, {example}"
        )
    dimensions = tuple(dimension_of(str(name), entry, where) for name, entry in tree.items())
    keys = [key for dimension in dimensions for key in dimension.keys]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"{where}: expected {key} once, got it {keys.count(key)} times. Keep one of them")
    return Space(where, dimensions)


def dimension_of(name: str, entry: Any, where: str) -> Dimension:
    """Read the range or the choices of one key or of several."""
    keys = tuple(part.strip().replace(".init_args", "") for part in name.split(","))
    prefix = f"{where}: {name}"
    for key in keys:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", key):
            raise UserError(f"{prefix}: expected keys of a configuration such as model.step_size, got {key!r}")
        if key.split(".")[0] not in ("model", "data", "rates", "trainer") or key == "trainer.max_steps":
            raise UserError(
                f"{prefix}: expected keys of the method, the data, the rates or the trainer, got {key}. Remove it"
            )
    if isinstance(entry, list):
        return Dimension(keys, choices=choices_of(entry, prefix))
    if not isinstance(entry, Mapping) or not {"low", "high"} <= entry.keys() <= {"low", "high", "log"}:
        raise UserError(f"{prefix}: expected {{low: NUMBER, high: NUMBER, log: true}} or a list, got {as_word(entry)}")
    low, high = (number(entry[end], f"{prefix}.{end}") for end in ("low", "high"))
    if not isinstance(log := entry.get("log", False), bool):
        raise UserError(f"{prefix}.log: expected true or false, got {as_word(log)}")
    if low >= high:
        raise UserError(f"{prefix}: expected low below high, got {low:g} and {high:g}. Exchange or change them")
    if log and low <= 0:
        raise UserError(f"{prefix}.low: expected a number above 0 for a logarithmic range, got {low:g}. Raise it")
    return Dimension(keys, low, high, log)


def choices_of(entry: Sequence[Any], prefix: str) -> tuple[Scalar, ...]:
    """Check a list of choices."""
    if not entry:
        raise UserError(f"{prefix}: expected at least one choice, got an empty list. Fill it, or remove the key")
    for i, value in enumerate(entry):
        if not isinstance(value, Scalar):
            raise UserError(f"{prefix}: expected numbers, texts, true, false or null, got {as_word(value)}")
        if any(value == other and type(value) is type(other) for other in entry[:i]):
            raise UserError(f"{prefix}: expected every choice once, got {as_word(value)} twice. Remove one")
    return tuple(entry)


def number(value: Any, key: str) -> float:
    """Read a number; YAML reads 1e-4 as a text.

    Raises:
        UserError: The value is no finite number.
    """
    try:
        found = float(value) if isinstance(value, str) else value
    except ValueError:
        found = math.nan
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise UserError(f"{key}: expected a number, got {as_word(value)}. Correct it")
    return found


def value_at(config: Mapping[str, Any], key: str, where: str) -> Any:
    """Return the value of a key in a complete configuration.

    Raises:
        UserError: There is no such key.
    """
    holder, leaf = holder_of(config, key, where)
    return holder[leaf]


def changed(config: Mapping[str, Any], values: Mapping[str, Any], where: str = "configuration") -> dict[str, Any]:
    """Return a complete configuration with other values for some keys.

    Example:
        >>> changed({"model": {"class_path": "A", "init_args": {"step": 1}}}, {"model.step": 2})
        {'model': {'class_path': 'A', 'init_args': {'step': 2}}}
    """
    new = copy.deepcopy(dict(config))
    for key, value in values.items():
        holder, leaf = holder_of(new, key, where)
        holder[leaf] = value
    return new


def holder_of(config: Any, key: str, where: str) -> tuple[dict[str, Any], str]:
    """Return the mapping that has the last part of a key, and that part."""
    holder: Any = None
    node, leaf = config, ""
    for leaf in key.split("."):
        holder = node.get("init_args") if isinstance(node, dict) and leaf not in node else node
        if not isinstance(holder, dict) or leaf not in holder:
            raise UserError(
                f"{where}: {key}: expected a key with a value in the recipe, got none. Add it to the recipe"
            )
        node = holder[leaf]
    return holder, leaf


def as_word(value: Any) -> str:
    """Return a value as in YAML."""
    return {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool | None) else str(value)
