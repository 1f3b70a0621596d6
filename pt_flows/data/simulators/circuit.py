r"""Series RLC circuit: the voltage over the resistor as a function of frequency.

    H(ω) = R / (R + jωL + 1 / (jωC)) = 1 / (1 + jQ (ω/ω₀ - ω₀/ω)),   ω₀ = 1/√(LC),  Q = √(L/C) / R

So H depends on f₀ = ω₀ / 2π and Q alone, and R, L and C singly are not identifiable: R/a, L/a and aC give the same H
for every a > 0. Srivastava et al. 2019, SimVAE, arXiv:1911.08051, simulate the circuit with SPICE, restricted to f₀
below 10 kHz and Q below 4. The closed form, the ranges, the frequencies and the scales of the outputs are ours.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.data.simulators.base import Simulator

RANGES = ((1.5e3, 1.5e4), (3e-2, 3e-1), (1e-8, 1e-7))
"""Ranges of R in ohm, L in henry and C in farad: f₀ lies in 0.9 to 9.2 kHz, Q in 0.04 to 3.7."""
BAND = (100.0, 100_000.0)
"""First and last frequency in hertz."""
DECIBELS = 20.0
"""Unit of the gain in an observation, so that gain and phase are of one size."""


class RLCCircuit(Simulator):
    """Gain in units of 20 dB and phase in radians at logarithmically spaced frequencies, (2 · num_frequencies,).

    R, L and C are independent and log-uniform.

    Args:
        num_frequencies: Number of frequencies from 100 Hz to 100 kHz.
    """

    names = ("R", "L", "C")
    identifiable: ClassVar[bool] = False

    def __init__(self, num_frequencies: Count = 24) -> None:
        self.num_frequencies = num_frequencies

    def parameters(self, u: Tensor) -> Tensor:
        """Log-uniform R, L and C (n, 3)."""
        low, high = torch.tensor(RANGES).log().to(u).T
        return (low + u * (high - low)).exp()

    def simulate(self, parameters: Tensor) -> Tensor:
        """Gain and phase (n, 2 · num_frequencies) of the closed form."""
        R, L, C = parameters.double().T[..., None]
        start, end = (math.log10(f) for f in BAND)
        w = 2 * math.pi * torch.logspace(start, end, self.num_frequencies, dtype=torch.float64)
        reactance = (w * L - 1 / (w * C)) / R
        gain = -10 * (1 + reactance.square()).log10()
        return torch.cat([gain / DECIBELS, -reactance.atan()], 1)

    def invariants(self, parameters: Tensor) -> dict[str, Tensor]:
        """Resonance frequency f0 in hertz and quality factor Q, (n,)."""
        R, L, C = parameters.T
        return {"f0": 1 / (2 * math.pi * (L * C).sqrt()), "Q": (L / C).sqrt() / R}

    def equivalent(self, parameters: Tensor, rng: torch.Generator) -> Tensor:
        """R/a, L/a and aC with log-uniform a such that all three stay in their ranges."""
        (R, L, C), (low, high) = parameters.log().T, torch.tensor(RANGES).log().to(parameters).T
        least = torch.stack([R - high[0], L - high[1], low[2] - C]).amax(0)
        most = torch.stack([R - low[0], L - low[1], high[2] - C]).amin(0)
        log_a = least + torch.rand(len(parameters), generator=rng).to(parameters) * (most - least)
        return torch.stack([R - log_a, L - log_a, C + log_a], 1).exp()
