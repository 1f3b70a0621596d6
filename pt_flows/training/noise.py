"""Randomness as a function of (seed, stream, counter), so that nothing has to be saved to continue a run exactly."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


def seed_global(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of a device.

    `torch.manual_seed` prepares all other kinds of accelerators, too, which takes a good part of a small step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


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


class StartingAt(RowNoise):
    """Noise whose first draw is given, and whose other draws are one row for all rows; see `starting_at`.

    Attributes:
        start: The first draw (n, d), n at most `BLOCK`; None once it is taken.
        num: n.
    """

    start: Tensor | None = None
    num: int = 0

    def normal(self, num: int, *shape: int) -> Tensor:
        """The given rows as (n, *shape); afterwards one standard normal row for all of them."""
        if self.start is not None:
            start, self.start = self.start, None
            return start.view(self.num, *shape)
        return torch.randn(shape, generator=self, device=self.device).expand(min(num, self.num), *shape)

    def uniform(self, num: int, *shape: int) -> Tensor:
        """The distribution functions of the given rows; afterwards one uniform row for all of them."""
        if self.start is not None:
            return torch.special.ndtr(self.normal(num, *shape))
        return torch.rand(shape, generator=self, device=self.device).expand(min(num, self.num), *shape)


def given_or_new(rng: torch.Generator | None, device: torch.device | str) -> torch.Generator:
    """The given generator, or a new one on the device, seeded by the global one."""
    return rng or torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))


def row_noise(rng: torch.Generator, device: torch.device) -> RowNoise:
    """Noise for the steps of a block, on a device; it takes one number from the generator.

    A generator with given rows is that noise itself.
    """
    if isinstance(rng, StartingAt):
        return rng
    seed = torch.randint(2**62, (), generator=rng, device=rng.device)
    noise = RowNoise(device)
    noise.manual_seed(int(seed))
    return noise


def starting_at(start: Tensor, *parts: int | str) -> StartingAt:
    """Noise with a given first draw. A sampler that takes all of its noise from it is a function of that draw.

    The first draw are the latents, or the first points of chains.

    Args:
        start: Standard normal rows (n, d), n at most `BLOCK`.
        parts: Seed of all other draws, which are the same for all rows.
    """
    noise = StartingAt(start.device)
    noise.manual_seed(fold(*parts))
    noise.start, noise.num = start, len(start)
    return noise


Draw = Callable[[], Tensor]
"""One draw of a stream: the numbers that come next."""
_taken_over: Callable[[Draw], Tensor] | None = None


@contextmanager
def drawing(instead: Callable[[Draw], Tensor]) -> Iterator[None]:
    """Let a function answer every draw of all noise streams inside a `with` block.

    Args:
        instead: Gets the draw, and returns the numbers: those of the draw, or others of its shape.
    """
    global _taken_over
    before, _taken_over = _taken_over, instead
    try:
        yield
    finally:
        _taken_over = before


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
        here = lambda: sample(num * num_ranks, self.rng)[rank * num : (rank + 1) * num]
        return here() if _taken_over is None else _taken_over(here)
