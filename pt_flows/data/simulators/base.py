"""The base of simulators, and simulators from any Python function.

A simulator S maps parameters to observations and is never differentiated. Its prior is a map of the unit cube: uniform
numbers u become parameters, so that any prior is possible, also one of dependent parameters.
"""

import math
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pt_flows.construction import Constructed
from pt_flows.contracts import Shape
from pt_flows.errors import UserError

FLOATS = ("float32", "float64")
"""Types of the values that a simulator may return."""


class Simulator(Constructed, ABC):
    """Base of simulators. A subclass has `names` and overrides `parameters` and `simulate`.

    Attributes:
        names: Names of the parameters.
        identifiable: Whether every parameter can be inferred from an observation. If not, `invariants` can.
    """

    names: tuple[str, ...]
    identifiable: ClassVar[bool] = True
    _first: tuple[Shape, str] | None = None
    """Shape and type of the first observations."""

    @abstractmethod
    def parameters(self, u: Tensor) -> Tensor:
        """Map independent uniform numbers on [0, 1], (n, K), to parameters (n, K) of the prior."""

    @abstractmethod
    def simulate(self, parameters: Tensor) -> Any:
        """Return observations (n, *event) of parameters (n, K), a float tensor or NumPy array.

        Images are (n, channels, height, width) in [-1, 1]. Observation i depends on row i alone.

        Args:
            parameters: A tensor on the CPU; `numpy.asarray` converts it.
        """

    def invariants(self, parameters: Tensor) -> dict[str, Tensor]:
        """Named quantities (n,) that an observation determines; by default every parameter."""
        return dict(zip(self.names, parameters.T, strict=True))

    def equivalent(self, parameters: Tensor, rng: torch.Generator) -> Tensor:
        """Other parameters (n, K) of the prior with the same observations, at random; the same ones if there are none.

        Args:
            parameters: Parameters (n, K).
            rng: Source of randomness on the CPU.
        """
        return parameters

    def from_latents(self, z: Tensor) -> Tensor:
        """Map latents z ~ N(0, I), (n, K), to parameters (n, K) of the prior."""
        return self.parameters(torch.special.ndtr(z))

    @torch.no_grad()
    def __call__(self, parameters: Tensor) -> Tensor:
        """Simulate and check: observations (n, *event) in the precision of the parameters, on the CPU.

        Raises:
            UserError: They are no float arrays with a row for every row of the parameters, have another shape or type
                than those of the first call, or are not finite.
        """
        x = self.simulate(parameters.cpu())
        kind = str(getattr(x, "dtype", type(x).__name__)).removeprefix("torch.")
        if not isinstance(x, Tensor | np.ndarray) or kind not in FLOATS:
            raise rejected("a tensor or NumPy array of float32 or float64", kind, "Convert the result")
        shape, n = tuple(x.shape), len(parameters)
        if len(shape) < 2 or shape[0] != n:
            wanted = f"a result of shape ({n}, ...) for parameters of shape {tuple(parameters.shape)}"
            raise rejected(wanted, f"{shape}", "Return one row for every row of the parameters")
        self._first = self._first or (shape[1:], kind)
        if self._first != (shape[1:], kind):
            wanted = f"observations of shape {self._first[0]} and type {self._first[1]}, as in its first call"
            raise rejected(wanted, f"{shape[1:]} and {kind}", "Return the same kind every time")
        x = torch.as_tensor(x).to(parameters.dtype)
        self._check_values(x, parameters)
        return x

    def _check_values(self, x: Tensor, parameters: Tensor) -> None:
        """Check that observations are finite, and images in [-1, 1].

        Raises:
            UserError: They are not.
        """
        wanted, bad = "finite values", ~x.isfinite()
        if x.dim() == 4 and not bool(bad.any()):
            wanted, bad = "images in [-1, 1]", x.abs() > 1 + 1e-5
        if bool(bad.any()):
            row = int(bad.flatten(1).any(1).nonzero()[0])
            at = ", ".join(f"{name} {float(v):.4g}" for name, v in zip(self.names, parameters[row], strict=True))
            advice = "Correct the function, or its range of parameters"
            raise rejected(wanted, f"{float(x[row][bad[row]][0]):.4g} at {at}", advice)


class FunctionSimulator(Simulator):
    """Simulator from a Python function, with independent uniform parameters.

    Args:
        function: Maps parameters (n, K), a tensor on the CPU, to observations (n, *event), a float tensor or NumPy
            array. It is never differentiated. A configuration names it by its path, such as `my_simulators.spring`.
        ranges: The least and the greatest value of every parameter, by name, in the order of the columns.
    """

    def __init__(self, function: Callable[[Tensor], Any], ranges: dict[str, tuple[float, float]]) -> None:
        for name, (low, high) in ranges.items():
            if not -math.inf < low < high < math.inf:
                wanted = "a finite range whose first value is the smaller one"
                raise UserError(f"FunctionSimulator.ranges.{name}: expected {wanted}, got {[low, high]}. Correct it")
        if not ranges:
            raise UserError("FunctionSimulator.ranges: expected at least one parameter, got none. Add its range")
        self.function, self.names = function, tuple(ranges)
        self.low, self.high = torch.tensor(list(ranges.values())).T

    def parameters(self, u: Tensor) -> Tensor:
        """Uniform parameters (n, K)."""
        return uniform(u, self.low, self.high)

    def simulate(self, parameters: Tensor) -> Any:
        """Call the function.

        Raises:
            UserError: It fails.
        """
        try:
            return self.function(parameters)
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[:2][-1]  # the function's own line, if it is Python's
            got = f"{type(error).__name__} at line {at.lineno} of {at.filename} ({error})"
            raise rejected(f"a function of {len(self.names)} parameters", got, "Correct the function") from error


def uniform(u: Tensor, low: Any, high: Any) -> Tensor:
    """Map uniform numbers on [0, 1] to [low, high], numbers or one per column."""
    low, high = (torch.as_tensor(end).to(u) for end in (low, high))
    return low + u * (high - low)


def one_of(u: Tensor, num: int) -> Tensor:
    """Map uniform numbers on [0, 1] to the integers 0 ... num - 1, as floats.

    Example:
        >>> one_of(torch.tensor([0.0, 0.49, 0.5, 1.0]), 2)
        tensor([0., 0., 1., 1.])
    """
    return (u * num).floor().clamp(0, num - 1)


def rejected(expected: str, got: str, advice: str) -> UserError:
    """The error of a simulator with a wrong result."""
    return UserError(f"data.simulator: expected {expected}, got {got}. {advice}")
