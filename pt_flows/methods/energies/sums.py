"""Sums of energies: products of densities."""

import torch
from torch import Tensor

from pt_flows.contracts import EnergyNet


class SumEnergy(EnergyNet):
    """U_1 + U_2: the product of two densities.

    Args:
        first: U_1.
        second: U_2.
    """

    def __init__(self, first: EnergyNet, second: EnergyNet) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.event_shape, self.takes_labels = first.event_shape, first.takes_labels

    def parts(self, x: Tensor) -> Tensor:
        """All energies of both (B, S_1 + S_2)."""
        return torch.cat([self.first.parts(x), self.second.parts(x)], 1)

    def forward(self, *args: Tensor) -> Tensor:
        """U (B,) at points, and labels if both take them."""
        return self.first(*args) + self.second(*args)
