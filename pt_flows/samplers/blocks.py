"""The base of samplers whose sample i does not depend on the number of samples."""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from pt_flows.errors import UserError
from pt_flows.samplers.sampler import Sampler
from pt_flows.training.noise import BLOCK, given_or_new


class InBlocks(Sampler):
    """Draws blocks of at most 500 samples, one after another.

    A subclass overrides `block`. If it takes its noise row by row, from `row_noise` or `generator.inputs`, the first k
    of n samples are the same for every n.
    """

    @abstractmethod
    def block(self, num: int, y: Tensor | None, rng: torch.Generator) -> Iterator[tuple[float, Tensor]]:
        """Draw one block step by step.

        Args:
            num: Number of samples, at most `BLOCK`.
            y: Labels (num,) for a class-conditional method.
            rng: Source of randomness, on any device. Take as much from it for any `num`.

        Yields:
            The fraction of the work done and the points so far; last 1.0 and the samples (num, *event).
        """

    def sample(self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None) -> Tensor:
        """Draw samples; sample i is the same whatever the batching."""
        _, x = deque(self._stages(num, y, rng), maxlen=1).pop()
        return x

    def sampling(self, num: int, rng: torch.Generator) -> Iterator[tuple[float, Tensor]]:
        """Draw samples step by step: the fraction done and the points so far, samples last."""
        return self._stages(num, None, rng)

    def _stages(self, num: int, y: Tensor | None, rng: torch.Generator | None) -> Iterator[tuple[float, Tensor]]:
        if num < 1:
            raise UserError(f"num: expected at least 1, got {num}")
        if y is not None and len(y) != num:
            raise UserError(f"y: expected {num} labels, one for each sample, got {len(y)}")
        rng = given_or_new(rng, "cpu")
        ready: list[Tensor] = []
        for start in range(0, num, BLOCK):
            size, x = min(BLOCK, num - start), torch.empty(0)
            for fraction, x in self.block(size, None if y is None else y[start : start + size], rng):
                if fraction < 1:
                    yield (start + fraction * size) / num, torch.cat([*ready, x])
            ready.append(x)
        yield 1.0, torch.cat(ready)
