r"""Contrastive divergence with Langevin chains that continue between iterations: the baseline of energy-based models.

    x⁻: K Langevin steps x ← x - (s²/2τ) ∇U(x) + s z at temperature τ, from the starting points
    descend mean U(x⁺) - mean U(x⁻) + c (mean U(x⁺)² + mean U(x⁻)²)

Starting points: the chains of a buffer, some of them renewed with noise (persistent, Tieleman 2008; with a fraction of
renewed chains the hybrid of Du and Mordatch 2019, arXiv:1903.08689), noise in every iteration (short-run, Nijkamp et
al. 2019, arXiv:1904.09770), or the data (Hinton 2002).

Departures: none. The average of weights is an addition.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from pt_flows.bounds import Count, Fraction, NonNegative, Positive
from pt_flows.contracts import Batch, Terms, Weights
from pt_flows.functional.langevin import Chain, Rng, langevin, normal_like
from pt_flows.methods.energies.base import EnergyMethod, OnDivergence, check_denoise
from pt_flows.methods.energies.watch import step_length, watched
from pt_flows.training.players import Energy, check_takes_labels
from pt_flows.training.replay import ReplayBuffer

ChainStart = Literal["persistent", "noise", "data"]


class PCD(EnergyMethod):
    """Persistent, short-run or plain contrastive divergence.

    Args:
        energy: U, low on data.
        num_langevin_steps: K.
        step_size: s.
        temperature: τ; below one, samples are sharper than exp(-U).
        metropolis: Whether to accept or reject proposals instead of accepting all.
        start: Starting points of the chains in every iteration.
        reinit_probability: Fraction of persistent chains that are renewed with noise when they are drawn.
        start_std: Standard deviation of the noise that chains start from.
        data_noise: Standard deviation of noise that is added to data and is a part of the model.
        denoise: Whether samples are denoised by one step along the score (Tweedie's formula).
        energy_l2: c, weight of the squared energies.
        buffer_size: Number of persistent chains.
        num_sampling_steps: Langevin steps from noise to a sample after training; default K.
        max_energy_gap: Largest |mean U(x⁺) - mean U(x⁻)|; a run beyond it has diverged.
        on_divergence: "stop" with the reason, or "roll_back" to the state of the last row of the log.
    """

    differentiated_once = ("energy",)

    def __init__(
        self,
        energy: Energy,
        num_langevin_steps: Count = 40,
        step_size: Positive = 0.1,
        temperature: Positive = 1.0,
        metropolis: bool = False,
        start: ChainStart = "persistent",
        reinit_probability: Fraction = 0.0,
        start_std: Positive = 1.0,
        data_noise: NonNegative = 0.0,
        denoise: bool = False,
        energy_l2: NonNegative = 0.0,
        buffer_size: Count = 10_000,
        num_sampling_steps: Count | None = None,
        max_energy_gap: Positive = 1e8,
        on_divergence: OnDivergence = "stop",
    ) -> None:
        check_denoise(denoise, data_noise)
        check_takes_labels(energy, False)
        chains = ReplayBuffer("slot", buffer_size, energy.event_shape, reinit_probability=reinit_probability)
        super().__init__(energy, chains, max_energy_gap, on_divergence)
        self.num_langevin_steps, self.step_size = num_langevin_steps, step_size
        self.temperature, self.metropolis = temperature, metropolis
        self.start, self.start_std = start, start_std
        self.data_noise, self.denoise, self.energy_l2 = data_noise, denoise, energy_l2
        self.num_sampling_steps = num_sampling_steps or num_langevin_steps
        self.buffer.fill(torch.randn, self.buffer.labels)
        self.buffer.points.mul_(start_std)

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Move chains from their starting points, and descend the difference of energies."""
        x, _ = minibatches[0]
        x_data = x + self.data_noise * normal_like(x, self.noise)

        drawn = self.buffer.draw(len(x), self.noise, self.fresh) if self.start == "persistent" else None
        start = drawn.x if drawn else self.fresh(len(x))[0] if self.start == "noise" else x_data
        chain, acceptance = self.walk(start, self.num_langevin_steps, self.noise, "raw")
        if drawn:
            self.buffer.write(drawn, chain.x, drawn.labels)

        u_data, u_model = self.energy(torch.cat(self.attacked(x_data, chain.x))).split(len(x))
        squares = u_data.square().mean() + u_model.square().mean()
        norm = self.descend(u_data.mean() - u_model.mean() + self.energy_l2 * squares)

        lost = (~chain.energy.isfinite()).sum().float()
        terms = {"acceptance": acceptance.mean(), "_lost_chains": lost}
        terms |= step_length(0.5 * self.step_size**2 / self.temperature, chain.gradient)
        return norm | terms | watched(u_data, u_model, chain.x)

    @property
    def tests_steps(self) -> bool:
        """Whether Metropolis' test is on."""
        return self.metropolis

    def fresh(self, num: int) -> tuple[Tensor, Tensor]:
        """Noise that chains start from, and labels 0, which are not used here."""
        x = self.start_std * self.noise.normal(num, *self.event_shape)
        return x, torch.zeros(num, dtype=torch.int64, device=x.device)

    def walk(self, x: Tensor, num_steps: int, rng: Rng, weights: Weights = "ema") -> tuple[Chain, Tensor]:
        """Take Langevin steps as in training."""
        with self.energy.fixed(weights) as U:
            return langevin(U, x, self.step_size, num_steps, rng, self.metropolis, self.temperature)

    def sampling(self, num: int, rng: Rng, weights: Weights) -> Iterator[tuple[float, Tensor]]:
        """Run chains from noise for `num_sampling_steps` steps."""
        x = self.start_std * normal_like(torch.empty(num, *self.event_shape, device=self.device), rng)
        for done in range(0, self.num_sampling_steps, 10):
            chain, _ = self.walk(x, min(10, self.num_sampling_steps - done), rng, weights)
            x = chain.x
            yield min(done + 10, self.num_sampling_steps) / self.num_sampling_steps, x
