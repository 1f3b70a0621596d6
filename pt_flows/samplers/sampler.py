"""The base of samplers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from pt_flows.construction import Constructed
from pt_flows.contracts import Weights


class Sampler(Constructed, ABC):
    """Draws samples from a trained method.

    A subclass overrides `sample`, and `prepare` if it checks the method or computes anything once. The passport of
    every number that is measured with it records its constructor's arguments.

    Attributes:
        method: The method to draw from; set by `prepare`.
        weights: The weights to draw with; set by `prepare`.
        needs_data: Whether `prepare` computes something from the method's data.
    """

    method: Any
    weights: Weights
    needs_data: bool = False

    def check(self, method: Any) -> None:
        """Check that the sampler can draw from a method, trained or not. `prepare` calls it first.

        Raises:
            UserError: It cannot.
        """

    def prepare(self, method: Any, weights: Weights, data: Any = None) -> None:
        """Prepare to draw from a method. Evaluation calls it again when the weights have changed.

        Args:
            method: The method, on its device.
            weights: The averaged weights, or the raw ones.
            data: The data module of the method, if there is one.

        Raises:
            UserError: The sampler cannot draw from this method.
        """
        self.check(method)
        self.method, self.weights = method, weights

    def diagnostics(self) -> dict[str, float]:
        """Numbers about the samples drawn since `prepare`, each a mean over them; always the same names.

        They are written beside the numbers of an evaluation, and never rank anything.
        """
        return {}

    @abstractmethod
    def sample(self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None) -> Tensor:
        """Draw samples.

        Args:
            num: Number of samples.
            y: Labels (num,) for a class-conditional method.
            rng: Source of randomness, on any device; None for the global one.

        Returns:
            Samples (num, *event) on the method's device.
        """

    def sampling(self, num: int, rng: torch.Generator) -> Iterator[tuple[float, Tensor]]:
        """Draw samples step by step, for a progress bar: the fraction done and the points so far, samples last."""
        yield 1.0, self.sample(num, rng=rng)

    def __str__(self) -> str:
        """The name in passports: the class with all its arguments, "..." for values that are not plain."""
        values = {name: p.default for name, p in signature(type(self).__init__).parameters.items()}
        values |= self.init_args | dict.fromkeys(self.left_out, "...")
        told = ", ".join(f"{name}={value}" for name, value in values.items() if value is not Parameter.empty)
        return f"{type(self).__name__}({told})" if told else type(self).__name__
