"""Values of a YAML file, read with one sentence per mistake that names the file and the key."""

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pt_flows.cli.shipped import recipe_file
from pt_flows.errors import UserError
from pt_flows.studies.options import seeds_in

T = TypeVar("T")


class Section:
    """A mapping in a study file. Its errors name the file and the key.

    Args:
        file: The file.
        key: The key of the mapping; empty for the whole file.
        content: The mapping.
    """

    def __init__(self, file: Path, key: str, content: Mapping[str, Any]) -> None:
        self.file, self.key, self.content = file, key, content

    def wrong(self, key: str, expected: str, got: Any, advice: str) -> UserError:
        """Return the error about a value."""
        path = ".".join(filter(None, (self.key, key)))
        given = "none" if got is None else got if isinstance(got, str) else json.dumps(got, default=str)
        return UserError(f"{self.file}: {path}: expected {expected}, got {given}. {advice}")

    def only(self, names: Sequence[str]) -> "Section":
        """Return this section, after a check that it has no other keys.

        Raises:
            UserError: It has one.
        """
        for key in self.content:
            if key not in names:
                close = difflib.get_close_matches(str(key), names, 1)
                hint = f"Did you mean {close[0]}?" if close else "Omit it"
                raise self.wrong(str(key), f"one of the keys {', '.join(names)}", "another key", hint)
        return self

    def get(self, key: str, read: "Reader[T]", *default: Any) -> T:
        """Return a value, or the default if there is none.

        Raises:
            UserError: It is missing and has no default, or it is of another kind.
        """
        if self.content.get(key) is None:
            if default:
                return default[0]
            raise self.wrong(key, "a value", None, "Add it")
        return read(self, key, self.content[key])


Reader = Callable[[Section, str, Any], T]
"""Reads a value of a section: the section, the key, the raw value."""


def mapping(section: Section, key: str, value: Any) -> Section:
    """Read a mapping."""
    if not isinstance(value, dict):
        raise section.wrong(key, "keys with values", value, "Write them below it, or as {key: value}")
    return Section(section.file, ".".join(filter(None, (section.key, key))), {str(k): v for k, v in value.items()})


def text(section: Section, key: str, value: Any) -> str:
    """Read a text."""
    if not isinstance(value, str) or not value.strip():
        raise section.wrong(key, "a text", value, "Put it in quotes")
    return value.strip()


def count(section: Section, key: str, value: Any) -> int:
    """Read a whole number of at least one."""
    if (number := positive(section, key, value)) != int(number):
        raise section.wrong(key, "a whole number", value, "Round it")
    return int(number)


def positive(section: Section, key: str, value: Any) -> float:
    """Read a number above zero. YAML reads 2e6 as a text."""
    is_number = re.fullmatch(r"\d+\.?\d*(e\d+)?", str(value)) and not isinstance(value, bool)
    if not is_number or not float(value) > 0:
        raise section.wrong(key, "a number above 0", value, "Correct it")
    return float(value)


def list_of(read: Reader[T]) -> "Reader[tuple[T, ...]]":
    """Read one item or a list of items."""

    def read_all(section: Section, key: str, value: Any) -> tuple[T, ...]:
        items = value if isinstance(value, list) else [value]
        return tuple(read(section, key, item) for item in items)

    return read_all


def seeds(section: Section, key: str, value: Any) -> tuple[int, ...]:
    """Read seeds: 0..4, 0,3,7, or a list."""
    given = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    try:
        return tuple(seeds_in(given))
    except UserError as error:
        raise section.wrong(key, "seeds such as 0..4 or [0, 3, 7]", value, "Correct them") from error


def recipe(section: Section, key: str, value: Any) -> Path:
    """Read the path of a configuration, relative to the study file, or the name of a recipe of the package."""
    word = text(section, key, value)
    if word.endswith((".yaml", ".yml")) or (section.file.parent / word).exists():
        return path(section, key, value)
    return Path(recipe_file(word, f"{section.file}: {section.key}.{key}"))


def path(section: Section, key: str, value: Any) -> Path:
    """Read the path of a file, relative to the study file."""
    found = section.file.parent / text(section, key, value)
    if not found.is_file():
        raise section.wrong(key, "a file", f"{value}, which does not exist beside {section.file.name}", "Check it")
    return found
