"""The keys of a command and the classes that they accept, read from annotations."""

import collections.abc
import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pt_flows.cli.given import given
from pt_flows.construction import is_section


@dataclasses.dataclass(frozen=True)
class Keys:
    """The keys of one command.

    Attributes:
        hints: Annotations of the keys at the top.
        sections: Classes whose arguments are the keys of a section, by the section's key.
    """

    hints: dict[str, Any] = dataclasses.field(default_factory=dict)
    sections: dict[str, type] = dataclasses.field(default_factory=dict)

    @property
    def top(self) -> list[str]:
        """The keys at the top."""
        return [*dict.fromkeys([*self.sections, *self.hints])]

    def existing(self, words: Sequence[str]) -> dict[str, type | None]:
        """Return every key of the classes that a command line and its files name, with the class at each key.

        Args:
            words: The command line.
        """
        named: dict[str, str] = {}
        for key, value in given(words):
            names = value if isinstance(value, list) else [value]
            named |= {key.removesuffix(".class_path"): name for name in names if isinstance(name, str)}
        found: dict[str, type | None] = {}

        def add(path: str, hint: Any) -> None:
            found[path] = self.sections.get(path) or class_named(named.get(path, ""), base_of(hint)) or group_of(hint)
            if cls := found[path]:
                for name, inner in parameters(cls).items():
                    add(f"{path}.{name}", inner)

        for top in self.top:
            add(top, self.hints.get(top))
        return found

    def base(self, path: str, words: Sequence[str]) -> type | None:
        """Return the class whose subclasses a key accepts, if it accepts classes."""
        return base_of(self.hint(path, self.existing(words)))

    def hint(self, path: str, classes: Mapping[str, type | None]) -> Any:
        """Return the annotation of a key.

        Args:
            path: The key.
            classes: The class at each key, as `existing` returns them.
        """
        above, _, leaf = path.rpartition(".")
        owner = classes.get(above)
        return parameters(owner).get(leaf) if owner else self.hints.get(path)

    def told(self, message: str, words: Sequence[str]) -> str:
        """Return a message about an argument of a class with the key instead of the class and the argument.

        Args:
            message: A message such as "W1FE.step_size: expected a number above 0, got -1".
            words: The command line. If several keys have the class, those on the command line are meant.
        """
        match = re.match(r"(\w+)\.(\w+)(?=: )", message)
        if match is None:
            return message
        found = [f"{key}.{match[2]}" for key, cls in self.existing(words).items() if cls and cls.__name__ == match[1]]
        meant = [key for key, _ in given(words) if key in found] or found
        return " or ".join(dict.fromkeys(meant)) + message[match.end() :] if meant else message


def base_of(hint: Any) -> type | None:
    """Return the class whose subclasses an annotation accepts: that of items of lists, of results of factories.

    Example:
        >>> from collections.abc import Callable, Iterable
        >>> from fractions import Fraction
        >>> base_of(list[Fraction] | Fraction | None), base_of(Callable[[Iterable], Fraction]), base_of(int | None)
        (<class 'fractions.Fraction'>, <class 'fractions.Fraction'>, None)
    """
    inner = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        is_plain = {str, int, float} & {get_args(c)[0] if get_origin(c) is Annotated else c for c in inner}
        return None if is_plain else next((base for choice in inner if (base := base_of(choice))), None)
    if get_origin(hint) is Annotated:
        return base_of(inner[0])
    if get_origin(hint) is collections.abc.Callable:
        return base_of(inner[-1])
    if get_origin(hint) in (list, collections.abc.Iterable, collections.abc.Sequence):
        return base_of(inner[0])
    if get_origin(hint) in (dict, collections.abc.Mapping):
        return base_of(inner[1])
    plain = ("builtins", "pathlib", "datetime", "typing")
    is_class = inspect.isclass(hint) and hint.__module__ not in plain and group_of(hint) is None
    return hint if is_class and get_origin(hint) is None else None


def group_of(hint: Any) -> type | None:
    """Return the class of an annotation that accepts no subclasses: its arguments are keys."""
    if get_origin(hint) in (Union, UnionType):
        return next((group for choice in get_args(hint) if (group := group_of(choice))), None)
    return hint if is_section(hint) else None


@cache
def parameters(cls: type) -> dict[str, Any]:
    """Return the arguments of a class with their annotations, with those of its bases if it takes `**kwargs`."""
    found: dict[str, Any] = {}
    for owner in (c for c in cls.__mro__ if "__init__" in vars(c)):
        try:
            hints = get_type_hints(owner.__init__)
        except NameError:  # imported for type checkers only
            hints = {}
        arguments = list(inspect.signature(owner.__init__).parameters.values())
        named = [p.name for p in arguments if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        found |= {name: hints.get(name) for name in named if name not in found}
        if all(p.kind != p.VAR_KEYWORD for p in arguments):
            break
    return {name: hint for name, hint in found.items() if name not in ("self", "params")}


def class_named(name: str, base: type | None) -> type | None:
    """Return the class of an import path, or the subclass of a base with a short name; None if there is none."""
    if base is None:
        return None
    module, _, leaf = name.rpartition(".")
    if not module:
        return next((c for c in _subclasses(base) if c.__name__ == name), None)
    try:
        found = getattr(importlib.import_module(module), leaf, None)
    except (ImportError, ValueError):
        return None
    return found if inspect.isclass(found) else None


def public(base: type) -> list[type]:
    """Return the subclasses of a base that a user may name; for libraries, only those that they export."""

    def exported(cls: type) -> bool:
        places = accumulate(cls.__module__.split("."), "{}.{}".format)
        return any(cls.__name__ in getattr(sys.modules.get(place), "__all__", ()) for place in places)

    libraries = ("lightning", "pt_flows", "torch")
    return [c for c in _subclasses(base) if c.__module__.split(".")[0] not in libraries or exported(c)]


def _subclasses(base: type) -> list[type]:
    """Return the subclasses of a base at any depth that are not abstract, each before its own subclasses."""
    found = [inner for cls in base.__subclasses__() for inner in (cls, *_subclasses(cls))]
    return [cls for cls in dict.fromkeys(found) if not inspect.isabstract(cls)]
