"""Endless data of a simulator, with the latents of its parameters."""

import torch
from torch import Tensor

from pt_flows.bounds import AtLeastTwo, Count
from pt_flows.contracts import Split
from pt_flows.data.base import FlowData
from pt_flows.data.simulators.base import Simulator
from pt_flows.progress import track
from pt_flows.training.noise import generator_at, run_seed

CHUNK = 500
"""Parameters that the simulator receives at once for reference samples."""


class Simulated(FlowData):
    """Observations x = S(prior(z)) of a simulator S at fresh latents z ~ N(0, I).

    Minibatches are (x, y, z) for methods that take latents (`Method.takes_latents`), and (x, y) for all others. Latents
    are normal whatever the prior is: their distribution functions are uniform, and `Simulator.parameters` maps these
    numbers to the prior.

    Args:
        simulator: S with its prior.
        batch_size: Samples of one minibatch over all ranks.
        iterations_per_block: Iterations that one Lightning step runs.
        num_reference: Number of reference samples of a split if no number is asked for.
        num_pairs: Number of latents that are simulated once, at the first minibatch, and drawn with replacement for all
            minibatches, where a simulation is dear; None for fresh ones in every minibatch.
    """

    def __init__(
        self,
        simulator: Simulator,
        batch_size: Count = 128,
        iterations_per_block: Count = 1,
        num_reference: AtLeastTwo = 2_000,
        num_pairs: AtLeastTwo | None = None,
    ) -> None:
        super().__init__(batch_size, iterations_per_block)
        self.simulator, self.num_reference, self.num_pairs = simulator, num_reference, num_pairs
        self.latent_shape = (len(simulator.names),)
        self.event_shape = tuple(self.observe(self.latents(2, generator_at("cpu", "first call"))).shape[1:])
        self._references: dict[Split, Tensor] = {}
        self._bank: tuple[Tensor, Tensor] | None = None

    def check(self) -> None:
        """Check nothing here, because every result of the simulator is checked."""

    def latents(self, num: int, rng: torch.Generator) -> Tensor:
        """Draw z (num, K) on the CPU, where simulators run."""
        return torch.randn(num, *self.latent_shape, generator=rng)

    def observe(self, z: Tensor) -> Tensor:
        """Simulate at latents (num, K): observations (num, *event) on the CPU.

        Raises:
            UserError: The simulator returns something else; see `Simulator`.
        """
        return self.simulator(self.simulator.from_latents(z.cpu()))

    def draw(self, iteration: int, num_minibatches: int) -> tuple[Tensor, Tensor, Tensor]:
        """Observations (num_minibatches, B, *event), zeros (num_minibatches, B) and latents (num_minibatches, B, K).

        Every rank simulates its own share alone, but all of the pairs that are simulated once.
        """
        rng = generator_at("cpu", run_seed(), "data", iteration)
        if self.num_pairs is None:
            z = self.latents(num_minibatches * self.batch_size, rng)
            z = z.view(num_minibatches, self.batch_size, -1)[:, self.share]
            x = self.observe(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        else:
            rows = torch.randint(self.num_pairs, (num_minibatches, self.batch_size), generator=rng)[:, self.share]
            x, z = (values[rows] for values in self.bank())
        y = torch.zeros(z.shape[:2], dtype=torch.int64)
        return x.to(self.device), y.to(self.device), z.to(self.device)

    def bank(self) -> tuple[Tensor, Tensor]:
        """The observations (num_pairs, *event) and latents (num_pairs, K) of this seed, simulated once."""
        if self._bank is None:
            z = self.latents(self.num_pairs or 0, generator_at("cpu", run_seed(), "pairs"))
            parts = track(z.split(CHUNK), "simulations")
            self._bank = torch.cat([self.observe(part) for part in parts]), z
        return self._bank

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Fresh observations (num, *event)."""
        cpu = rng if rng.device.type == "cpu" else generator_at("cpu", int(torch.randint(2**62, (), generator=rng)))
        return self.observe(self.latents(num, cpu)).to(rng.device)

    def pairs(self, split: Split, num: int) -> tuple[Tensor, Tensor]:
        """Fixed observations (num, *event) and their latents (num, K); "test" is independent of "train"."""
        z = self.latents(num, generator_at("cpu", "reference", type(self.simulator).__name__, split))
        return torch.cat([self.observe(part) for part in z.split(CHUNK)]), z

    def reference(self, split: Split, num: int | None = None) -> Tensor:
        """Fixed observations: uint8 images, else floats."""
        if num is None and split in self._references:
            return self._references[split]
        x, _ = self.pairs(split, num or self.num_reference)
        if len(self.event_shape) == 3:
            x = (127.5 * (x + 1)).round().to(torch.uint8)
        if num is None:
            self._references[split] = x
        return x
