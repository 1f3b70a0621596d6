"""The keys and values of configuration files and flags."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

CONFIG = ("config", "c")
"""Names of the flag for configuration files."""


def check_yaml(
    path: Path, keys: str = "keys such as trainer, model or data", example: str = "seed_everything: 0"
) -> str | None:
    """Return the sentence about a file that is no YAML mapping of distinct keys; None if it is one.

    Args:
        path: The file.
        keys: Name of the keys that belong in it.
        example: A key with a value.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        return f"{path}: expected a YAML text, got a binary file or one that is not UTF-8. Name another file"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return f"{path}: expected YAML, got an error: {error.problem or error.context}{where}. Correct it"
    if node is None:
        return f"{path}: expected {keys}, got an empty file. Fill or omit it"
    if not isinstance(node, yaml.MappingNode):
        return f"{path}: expected keys with values, got a {node.id}. Write, for example, {example}"
    for key, first, second in _repeated(node):
        return f"{path}: expected {key} once, got it in line {first} and again in line {second}. Keep one of them"
    return None


def given(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield keys and values from configuration files and flags, in the given order.

    Args:
        words: The command line.
    """
    for name, value in flags(words):
        if name in CONFIG:
            if Path(value).is_file() and check_yaml(Path(value)) is None:
                yield from _paths(yaml.safe_load(Path(value).read_text(encoding="utf-8")))
        else:
            key = name.replace(".init_args", "")
            yield key, value
            if value.startswith(("[", "{")):
                yield from _paths(_loaded(value), key)


def flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the names and values of flags, in the given order.

    Args:
        words: The command line.
    """
    for token, following in pairwise([*words, ""]):
        if token.startswith("-"):
            name, assigned, value = token.lstrip("-").partition("=")
            yield name, value if assigned else following


def _repeated(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, int, int]]:
    """Yield the repeated keys of mappings, each with its two lines."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated(item, prefix)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            path = f"{prefix}.{key.value}" if prefix else str(key.value)
            line = key.start_mark.line + 1
            if path in lines:
                yield path, lines[path], line
            lines[path] = line
            yield from _repeated(value, path)


def _paths(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            here = prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key)
            yield here, value
            yield from _paths(value, here)
    elif isinstance(tree, list):
        yield prefix, tree
        for value in tree:
            yield from _paths(value, prefix)


def _loaded(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None
