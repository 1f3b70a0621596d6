"""Bounds of arguments: annotations that are checked when objects are constructed.

An annotation states the bounds of a number once, and editors show it:

    def __init__(self, step_size: Positive, persistence: Count = 5, penalty: Literal["one_sided", "two_sided"] = ...)
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pt_flows.errors import UserError

LIBRARIES = ("torch", "torchmetrics", "lightning", "builtins")
"""Packages whose constructors have no such annotations."""


class Bound(NamedTuple):
    """An interval of numbers.

    Attributes:
        low: The lower end.
        high: The upper end.
        open_low: Whether the interval excludes the lower end.
        open_high: Whether the interval excludes the upper end.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: object) -> bool:
        """Whether a number lies in the interval; NaN does not."""
        number: Any = value
        above = number > self.low if self.open_low else number >= self.low
        return above and bool(number < self.high if self.open_high else number <= self.high)

    def __repr__(self) -> str:  # help texts show it
        return str(self)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"a number above {self.low:g}" if self.open_low else f"at least {self.low:g}"
        if self.low == -math.inf:
            return f"a number below {self.high:g}" if self.open_high else f"at most {self.high:g}"
        return f"a number in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


class Form(NamedTuple):
    """The form of a word.

    Attributes:
        pattern: Regular expression that the whole word matches.
        name: Description of the form.
    """

    pattern: str
    name: str


Positive = Annotated[float, Bound(0, open_low=True)]
NonNegative = Annotated[float, Bound(0)]
Fraction = Annotated[float, Bound(0, 1)]
PositiveFraction = Annotated[float, Bound(0, 1, open_low=True)]
DecayRate = Annotated[float, Bound(0, 1, open_high=True)]
DecayRates = DecayRate | list[DecayRate] | None
Count = Annotated[int, Bound(1)]
AtLeastTwo = Annotated[int, Bound(2)]
CountOrZero = Annotated[int, Bound(0)]


def check_arguments(prefix: str, hints: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Check arguments against their annotations: bounds of numbers, forms of words, and the choices of a `Literal`.

    The parser and type checkers check other types. NaN lies outside every bound, null and words are no numbers, and
    numbers and words are no data classes, such as schedules.

    Args:
        prefix: Text before the name of an argument in the message: "W1FE." for a class, "--" for a command.
        hints: Annotations by name, including extras.
        arguments: Values by name.

    Raises:
        UserError: An argument is out of its bounds.

    Example:
        >>> check_arguments("W1FE.", {"step_size": Positive}, {"step_size": -1.0})
        Traceback (most recent call last):
        pt_flows.errors.UserError: W1FE.step_size: expected a number above 0, got -1.0
    """
    for key, value in arguments.items():
        if key in hints and (expected := _violated(hints[key], value)):
            raise UserError(f"{prefix}{key}: expected {expected}, got {value!r}")


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """Return the annotations of all arguments of the constructors of a class and of its bases.

    A subclass that repeats an argument of its base with the plain type keeps the bound.
    """
    hints: dict[str, Any] = {}
    types: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base) and base.__module__.partition(".")[0] not in LIBRARIES:
            try:
                annotated, plain = (get_type_hints(base.__init__, include_extras=extras) for extras in (True, False))
            except NameError:  # a name that is imported for type checkers only
                continue
            repeated = {key for key, hint in plain.items() if hint == annotated[key] and hint == types.get(key)}
            hints |= {key: hint for key, hint in annotated.items() if key not in repeated}
            types |= plain
    return hints


def _violated(hint: Any, value: Any) -> str:
    """Return the expected value if every applicable member of the hint rejects this one; else an empty string."""
    choices = list(members(hint))
    verdicts = [told for choice in choices if (told := _verdict(*choice, value)) is not None]
    if not verdicts and _is_out_of_place(value, choices):
        verdicts = [str(bounds[0]) if bounds else _named(kind) for kind, bounds in choices]
    return " or ".join(dict.fromkeys(verdicts)) if all(verdicts) else ""


def _named(kind: Any) -> str:
    """Return the name of a member of a hint without bounds."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return "null" if kind is type(None) else f"a {getattr(kind, '__name__', kind)}"


def _is_out_of_place(value: Any, choices: Sequence[tuple[Any, tuple[Bound | Form, ...]]]) -> bool:
    """Whether a value is null, or a word or a number where neither is meant, and no member of the hint takes it."""
    kinds = [kind for kind, _ in choices if kind is not type(None)]
    ours = bool(kinds) and all(is_dataclass(kind) for kind in kinds)
    if any(kind is Any for kind in kinds) or not (ours or any(bounds for _, bounds in choices)):
        return False
    if value is None:
        return len(kinds) == len(choices)
    return isinstance(value, str) or (ours and isinstance(value, Real))


def members(hint: Any, bounds: tuple[Bound | Form, ...] = ()) -> Iterator[tuple[Any, tuple[Bound | Form, ...]]]:
    """Yield the members of a union, each with its bounds and forms."""
    if get_origin(hint) in (Union, UnionType):
        for inner in get_args(hint):
            yield from members(inner, bounds)
    elif get_origin(hint) is Annotated:
        inner, *extras = get_args(hint)
        yield from members(inner, (*bounds, *(extra for extra in extras if isinstance(extra, Bound | Form))))
    else:
        yield hint, bounds


def _verdict(hint: Any, bounds: tuple[Bound | Form, ...], value: Any) -> str | None:
    """Return the expected value; an empty string if this one is accepted, None if the hint does not apply to it."""
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(value, list | tuple):
        if origin not in (list, tuple, Sequence):
            return "" if hint in (list, tuple, Sequence) else None
        each = inner if origin is tuple and inner[-1] is not Ellipsis else inner[:1] * len(value)
        told = next((told for item, own in zip(value, each, strict=False) if (told := _violated(own, item))), "")
        return f"every item to be {told.removeprefix('every item to be ')}" if told else ""
    if origin is Literal:
        if value in inner:
            return ""
        return _named(hint) if any(_alike(value, word) for word in inner) else None
    if isinstance(value, Real):
        if bounds:
            whole = hint is not int or isinstance(value, Integral)
            return next((str(bound) for bound in bounds if value not in bound), "" if whole else "a whole number")
        return "" if hint in (int, float) else None
    if isinstance(value, str) and hint is str:
        forms = [form for form in bounds if isinstance(form, Form)]
        return next((form.name for form in forms if not re.fullmatch(form.pattern, value)), "")
    return None


def _alike(value: Any, word: Any) -> bool:
    """Whether both are words, or both are numbers."""
    return any(isinstance(value, kind) and isinstance(word, kind) for kind in (str, Real))
