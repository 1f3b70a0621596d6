"""A guard of exported models: they may name classes of some packages, and hold texts where texts are meant.

The parser that builds a method reads texts generously. Where a class or a section is meant, a text may be an import
path, YAML with one, or the name of a file with such YAML. So a description is compared with the annotations of its
classes before the parser sees it, and a text where none is meant is refused.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pt_flows.bounds import hints_of, members
from pt_flows.construction import is_section
from pt_flows.errors import UserError

PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Guard:
    """Checks descriptions.

    Attributes:
        file: The file of the description, for errors.
        allowed: Packages whose classes it may name.
    """

    file: Path
    allowed: Collection[str]

    def check_object(self, path: str | None, arguments: Any, where: str) -> None:
        """Check the description of an object.

        Args:
            path: The import path of its class; None if the class cannot be imported.
            arguments: Arguments of the constructor, by name.
            where: The place in the description, for errors.

        Raises:
            UserError: It names a class of another package, or has a text where none is meant.
        """
        if path is not None and not self.allows(path):
            wanted, package = f"expected classes of {', '.join(self.allowed)}, got {path}", path.partition(".")[0]
            advice = f'If you trust it: pt_flows.load(..., trusted=["{package}"])'
            raise UserError(f"{self.file}: {wanted}. {advice}")
        cls = None if path is None else imported(path)
        self.check_section({} if cls is None else hints_of(cls), arguments, where)

    def check_section(self, hints: Mapping[str, Any], arguments: Any, where: str) -> None:
        """Check arguments by their annotations."""
        if not isinstance(arguments, dict):
            raise self.wrong(where, "arguments by name", arguments)
        for name, value in arguments.items():
            if not re.fullmatch(r"\w+", name):
                raise self.wrong(where, "names of arguments", name)
            self.check_value(hints.get(name, Any), value, f"{where}.{name}")

    def check_value(self, hint: Any, value: Any, where: str) -> None:
        """Check the value of an argument by its annotation."""
        if isinstance(value, str):
            if not self.is_meant(hint, value):
                raise self.wrong(where, "no text, which could name a class or a file", value)
        elif isinstance(value, list):
            for item in value:
                self.check_value(inner_of(hint), item, where)
        elif isinstance(value, dict) and "class_path" in value:
            if extra := set(value) - {"class_path", "init_args"}:
                raise self.wrong(where, "class_path and init_args", ", ".join(sorted(extra)))
            self.check_object(str(value["class_path"]), value.get("init_args") or {}, where)
        elif isinstance(value, dict):
            section = next((kind for kind, _ in members(hint) if is_section(kind)), None)
            own = dict.fromkeys(value, inner_of(hint)) if section is None else hints_of(section)
            self.check_section(own, value, where)

    def is_meant(self, hint: Any, text: str) -> bool:
        """Whether a text is meant as one, or is the path of a function of an allowed package where one is meant."""
        kinds = [kind for kind, _ in members(hint)]
        if any(kind is Any for kind in kinds):
            return re.fullmatch(r"\w*", text) is not None
        functions = [kind for kind in kinds if get_origin(kind) is Callable]
        if functions:
            is_path = re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", text) is not None
            return is_path and self.allows(text) and all(kind in PLAIN for kind in kinds if kind not in functions)
        return all(map(takes_texts, kinds))

    def allows(self, path: str) -> bool:
        """Whether an import path is that of an allowed package."""
        return path.startswith(tuple(f"{package}." for package in self.allowed))

    def wrong(self, where: str, wanted: str, got: Any) -> UserError:
        """The error about a part of the description."""
        return UserError(f"{self.file}: {where}: expected {wanted}, got {got!r}. Export the model again")


def takes_texts(kind: Any) -> bool:
    """Whether a member of a hint takes texts and other plain values alone, or lists of them."""
    if kind in PLAIN or get_origin(kind) is Literal:
        return True
    inner = [arg for arg in get_args(kind) if arg is not Ellipsis]
    return bool(inner) and not isinstance(kind, type) and all(takes_texts(m) for arg in inner for m, _ in members(arg))


def inner_of(hint: Any) -> Any:
    """The annotation of items of a list, or of values of a mapping; Any if it is unknown, or if there are several."""
    containers = [get_args(kind) for kind, _ in members(hint) if get_origin(kind) not in (None, Literal, Callable)]
    if len(containers) != 1:
        return Any
    return next(inner for inner in reversed(containers[0]) if inner is not Ellipsis)


def imported(path: str) -> type | None:
    """Return a class by its import path; None if there is none, which the builder reports."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) else None
