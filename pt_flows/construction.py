"""The arguments of constructed objects as plain values, with which checkpoints describe networks without pickling them.

The description has the form of a configuration file: the path of a class and its arguments.
"""

import sys
from dataclasses import fields, is_dataclass
from functools import partial
from inspect import Parameter, signature
from numbers import Integral, Real
from types import FunctionType
from typing import Any

from pt_flows.bounds import check_arguments, hints_of


class Constructed:
    """Checks the arguments of its constructor against their annotations, and records them.

    Attributes:
        init_args: Arguments that plain values can describe, by name.
        left_out: Names of the other arguments: "*" for unnamed ones, "player.network" for one inside a section.
    """

    init_args: dict[str, Any]
    left_out: tuple[str, ...]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Check and record the arguments, which `__init__` receives next."""
        self = super().__new__(cls)
        described: dict[str, Any] = {}
        left_out: list[str] = []
        arguments = named(cls, args, kwargs)
        check_arguments(f"{cls.__name__}.", hints_of(cls), arguments)
        for name, value in arguments.items():
            if isinstance(value, Constructed) and _is_final(type(value)):  # a section keeps the arguments it describes
                described[name] = value.init_args
                left_out += [f"{name}.{inner}" for inner in value.left_out]
                continue
            try:
                described[name] = plain(value)
            except TypeError:
                left_out.append(name)
        self.__dict__.update(init_args=described, left_out=tuple(left_out))  # before torch's bookkeeping exists
        return self


def named(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return arguments by name. A class whose only positional arguments are `*args` passes them to its next base."""
    found = dict(kwargs)
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(signature(base.__init__).parameters.values())[1:]
        names = [p.name for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
        found |= zip(names, args, strict=False)
        args = args[len(names) :]
        if names or not any(p.kind is Parameter.VAR_POSITIONAL for p in parameters):
            break
    return found | ({"*": args} if args else {})


def plain(value: Any) -> Any:
    """Return a value, a class or a partial class in the form of a configuration file.

    Raises:
        TypeError: The value has no such form.

    Example:
        >>> import torch
        >>> plain(partial(torch.optim.Adam, betas=(0.5, 0.9)))
        {'class_path': 'torch.optim.Adam', 'init_args': {'betas': [0.5, 0.9]}}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, type):
        return {"class_path": path_of(value)}
    if isinstance(value, FunctionType):
        return path_of(value)
    if isinstance(value, partial) and str(getattr(value.func, "__module__", "")).startswith("jsonargparse"):
        value = partial(value.args[-1], **value.keywords)  # a class of a configuration file, with its instantiator
    if isinstance(value, partial) and isinstance(value.func, type) and not value.args:
        return {"class_path": path_of(value.func), "init_args": plain(value.keywords)}
    derived = any(is_dataclass(base) for base in type(value).__bases__)  # fields do not tell a subclass from its base
    if is_dataclass(value) and not isinstance(value, type) and not derived:
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Constructed) and not value.left_out:
        described = {"class_path": path_of(type(value)), "init_args": value.init_args}
        return value.init_args if _is_final(type(value)) else described
    raise TypeError(f"{type(value).__name__} is not a plain value")


def _is_final(cls: type) -> bool:
    """Whether a class is final, so that a description need not name it."""
    return bool(getattr(cls, "__final__", False))


def is_section(kind: Any) -> bool:
    """Whether a class takes its arguments as a section, without its name: a data class, or a final class."""
    return isinstance(kind, type) and (is_dataclass(kind) or _is_final(kind))


def path_of(it: type | FunctionType) -> str:
    """Return the shortest import path of a class or function, which survives most moves of files.

    Raises:
        TypeError: It was defined inside a function.

    Example:
        >>> path_of(partial)
        'functools.partial'
    """
    parts = it.__module__.split(".")
    for n in range(1, len(parts) + 1):
        package = ".".join(parts[:n])
        if getattr(sys.modules.get(package), it.__qualname__, None) is it:
            return f"{package}.{it.__qualname__}"
    raise TypeError(f"{it.__qualname__} cannot be imported from {it.__module__}")
