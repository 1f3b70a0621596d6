"""Options of commands that pass all other flags on to `fit`."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pt_flows.errors import UserError


def taken(words: Sequence[str], options: Mapping[str, Callable[[str], Any]]) -> tuple[dict[str, Any], list[str]]:
    """Separate a command's own options from all other words.

    Args:
        words: The command line after the command.
        options: For each option without its dashes a function of its text, which raises ValueError for a bad one.

    Returns:
        The values of the options that are present, and the other words in their order.

    Raises:
        UserError: An option has no value, a bad one, or two.

    Example:
        >>> taken(["a.yaml", "--trials", "3", "--data.batch_size=8", "--jobs=2"], {"trials": int, "jobs": int})
        ({'trials': 3, 'jobs': 2}, ['a.yaml', '--data.batch_size=8'])
    """
    found: dict[str, Any] = {}
    rest: list[str] = []
    remaining = iter(words)
    for word in remaining:
        name, assigned, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or (name := name.replace("-", "_")) not in options:
            rest.append(word)
            continue
        flag = "--" + name.replace("_", "-")
        value = value if assigned else next(remaining, None)
        if value is None:
            raise UserError(f"{flag}: expected a value, got none. Give one")
        if name in found:
            raise UserError(f"{flag}: expected one value, got two. Keep one of them")
        try:
            found[name] = options[name](value)
        except UserError as error:
            raise UserError(f"{flag}: {error}") from error
        except ValueError as error:
            kind = {int: "a whole number", float: "a number"}.get(options[name], "another value")
            raise UserError(f"{flag}: expected {kind}, got {value!r}. Correct it") from error
    return found, rest


def at_least_one(text: str) -> int:
    """Read a count.

    Raises:
        UserError: The text is no positive whole number.
    """
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"expected a whole number of at least 1, got {text!r}. Correct it")
    return int(text)


def seeds_in(text: str) -> list[int]:
    """Read seeds: a range with both ends, or single seeds and ranges with commas.

    Raises:
        UserError: The text is something else, or names a seed twice.

    Example:
        >>> seeds_in("0..4"), seeds_in("7"), seeds_in("0,2,10..11")
        ([0, 1, 2, 3, 4], [7], [0, 2, 10, 11])
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, is_range, last = part.strip().partition("..")
        if not first.isdigit() or (is_range and not last.isdigit()) or int(last or first) < int(first):
            raise UserError(f"expected seeds such as 0..4 or 0,1,5, got {text!r}. Correct it")
        seeds += range(int(first), int(last or first) + 1)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"expected every seed once, got {text!r}. Remove repetitions")
    if seeds[-1] >= 2**32 or len(seeds) > 1000:
        raise UserError(f"expected at most 1000 seeds below 2^32, got {text!r}. Correct it")
    return seeds


def flags(changes: Mapping[str, Any]) -> list[str]:
    """Return keys and values as flags of `pt-flows fit`.

    Example:
        >>> flags({"model.critic.steps": 5, "data.target": "ring8", "model.penalty": None, "run.tags": ["a"]})
        ['--model.critic.steps', '5', '--data.target', 'ring8', '--model.penalty', 'null', '--run.tags', '["a"]']
        >>> flags({"model.penalty": "two_sided", "model.step_size": 0.1, "data.shuffle": True})
        ['--model.penalty', 'two_sided', '--model.step_size', '0.1', '--data.shuffle', 'true']
    """
    texts = (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in changes.values())
    return [word for key, text in zip(changes, texts, strict=True) for word in (f"--{key}", text)]
