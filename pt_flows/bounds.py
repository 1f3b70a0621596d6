"""Bounds of arguments, written in their annotations and checked where objects are constructed.

An annotation says what a number may be, an editor shows it, and no constructor repeats it:

    def __init__(self, step_size: Positive, persistence: Count = 5, penalty: Literal["one_sided", "two_sided"] = ...)
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pt_flows.errors import UserError


class Bound(NamedTuple):
    """An interval of numbers.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        open_low: Whether the lower end is outside.
        open_high: Whether the upper end is outside.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: object) -> bool:
        """Whether a number lies inside; NaN does not."""
        assert isinstance(value, float | int)
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"a number above {self.low:g}" if self.open_low else f"at least {self.low:g}"
        return f"a number in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


Positive = Annotated[float, Bound(0, open_low=True)]
NonNegative = Annotated[float, Bound(0)]
Fraction = Annotated[float, Bound(0, 1)]
DecayRate = Annotated[float, Bound(0, 1, open_high=True)]
Count = Annotated[int, Bound(1)]
AtLeastTwo = Annotated[int, Bound(2)]
CountOrZero = Annotated[int, Bound(0)]


def check_arguments(name: str, hints: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Check arguments against their annotations: bounds of numbers, and words of a `Literal`.

    Types are left to the parser and to type checkers.

    Args:
        name: Of the class or command, for the message.
        hints: Annotations by name, extras included.
        arguments: Values by name.

    Raises:
        UserError: Names the first argument that is outside.

    Example:
        >>> check_arguments("W1FE", {"step_size": Positive}, {"step_size": -1.0})
        Traceback (most recent call last):
        pt_flows.errors.UserError: W1FE.step_size: expected a number above 0, got -1.0
    """
    for key, value in arguments.items():
        if key in hints and (expected := _violated(hints[key], value)):
            raise UserError(f"{name}.{key}: expected {expected}, got {value!r}")


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """Annotations of all arguments that the constructors of a class and of its bases take."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base) and base.__module__.partition(".")[0] not in ("torch", "lightning", "builtins"):
            try:
                hints |= get_type_hints(base.__init__, include_extras=True)
            except NameError:  # imported for type checkers only
                continue
    return hints


def _violated(hint: Any, value: Any) -> str:
    """What was expected, if the value is against the hint; else an empty string."""
    if isinstance(value, list | tuple):
        inner = get_args(hint)[:1] if get_origin(hint) in (list, tuple, Sequence) else ()
        return next((told for item in value if (told := _violated(inner[0], item))), "") if inner else ""
    if not isinstance(value, float | int | str):
        return ""
    told = [str(bound) for bound in _bounds(hint) if isinstance(value, float | int) and value not in bound]
    words = [word for choice in _alternatives(hint) if get_origin(choice) is Literal for word in get_args(choice)]
    other_strings = any(choice is str for choice in _alternatives(hint))
    if words and isinstance(value, str) and not other_strings and value not in words:
        told.append(f"one of {', '.join(map(str, words))}")
    return told[0] if told else ""


def _alternatives(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (Union, UnionType):
        for inner in get_args(hint):
            yield from _alternatives(inner)
    elif get_origin(hint) is Annotated:
        yield from _alternatives(get_args(hint)[0])
    else:
        yield hint


def _bounds(hint: Any) -> Iterator[Bound]:
    if get_origin(hint) in (Union, UnionType):
        for inner in get_args(hint):
            yield from _bounds(inner)
    elif get_origin(hint) is Annotated:
        yield from (extra for extra in get_args(hint)[1:] if isinstance(extra, Bound))
