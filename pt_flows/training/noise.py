"""Randomness as a function of (seed, stream, counter), so that nothing has to be saved to continue a run exactly."""

import hashlib
import os
from collections.abc import Callable

import torch
from torch import Tensor

from pt_flows.training.distributed import world


def run_seed() -> int:
    """The seed that `lightning.seed_everything` was last called with; 0 if it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def fold(*parts: int | str) -> int:
    """A 63-bit seed from the parts, the same on every machine.

    Example:
        >>> fold(0, "data", 1) == fold(0, "data", 1), fold(0, "data", 1) == fold(0, "data", 2)
        (True, False)
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_at(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """A random generator on the device, seeded with the parts."""
    return torch.Generator(device).manual_seed(fold(*parts))


BLOCK = 500
"""Number of samples that share the random numbers of one generator."""


class RowNoise(torch.Generator):
    """A generator whose `normal` and `uniform` give row i the same numbers for any number of rows up to `BLOCK`.

    Every draw is one of `BLOCK` rows, the first of which are kept. Torch's own draws change with their size.
    """

    def normal(self, num: int, *shape: int) -> Tensor:
        """Standard normal (num, *shape)."""
        return torch.randn(BLOCK, *shape, generator=self, device=self.device)[:num]

    def uniform(self, num: int, *shape: int) -> Tensor:
        """Uniform on [0, 1), (num, *shape)."""
        return torch.rand(BLOCK, *shape, generator=self, device=self.device)[:num]


def given_or_new(rng: torch.Generator | None, device: torch.device | str) -> torch.Generator:
    """The given generator, or a new one on the device, seeded by the global one."""
    return rng or torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))


def row_noise(rng: torch.Generator, device: torch.device) -> RowNoise:
    """Noise for the steps of a block, on a device; it takes one number from the generator."""
    seed = torch.randint(2**62, (), generator=rng, device=rng.device)
    noise = RowNoise(device)
    noise.manual_seed(int(seed))
    return noise


class NoiseStream:
    """Random numbers of one purpose, a function of (seed, name, iteration, order of the draw).

    Every rank draws the numbers of the whole global batch and keeps its share. So ranks never see the same noise, a
    run on two processes uses the same numbers as a run on one, and resuming needs no generator state.

    Args:
        name: Name that distinguishes the streams of one run.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.rng = torch.Generator()

    def seek(self, iteration: int, device: torch.device | str = "cpu") -> None:
        """Go to the start of an iteration; draws follow in order."""
        device = torch.device(device)
        if self.rng.device.type != device.type or (device.index is not None and self.rng.device != device):
            self.rng = torch.Generator(device)
        self.rng.manual_seed(fold(run_seed(), self.name, iteration))

    def normal(self, num: int, *shape: int) -> Tensor:
        """Standard normal (num, *shape): this rank's share of the draw for all ranks."""
        return self.draw(lambda n, rng: torch.randn(n, *shape, generator=rng, device=rng.device), num)

    def uniform(self, num: int, *shape: int) -> Tensor:
        """Uniform on [0, 1), (num, *shape): this rank's share of the draw for all ranks."""
        return self.draw(lambda n, rng: torch.rand(n, *shape, generator=rng, device=rng.device), num)

    def draw(self, sample: Callable[[int, torch.Generator], Tensor], num: int) -> Tensor:
        """Samples of any distribution (num, ...): this rank's share of the draw for all ranks.

        Args:
            sample: Function that draws a number of samples with a generator, on its device.
            num: Number of samples for this rank.
        """
        rank, num_ranks = world()
        return sample(num * num_ranks, self.rng)[rank * num : (rank + 1) * num]
