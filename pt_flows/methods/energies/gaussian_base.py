"""A Gaussian under an energy of noise levels: the network learns only what the mean and covariance of data do not say.

    U(x, t) = F(x, t) - log N(x; a_t m, Q diag(a_t² λ + b_t²) Qᵀ) + const

The constant is the same at every level, so with F = 0 the levels have equal normalisers and chains mix from the first
iteration. Far from the data the base confines chains, which a network alone does only where chains have been.
"""

import torch
from torch import Tensor

from pt_flows.contracts import EnergyNet
from pt_flows.functional.gibbs import at_every_label
from pt_flows.functional.noising import Gaussian, Noising


class GaussianBase(EnergyNet):
    """An energy plus the Gaussian of the diffused data; the standard normal distribution until moments are given.

    The moments are buffers: a checkpoint holds them.

    Args:
        network: F(x, t).
        noising: The noise levels.
    """

    takes_labels = True
    a: Tensor
    b: Tensor
    centre: Tensor
    variances: Tensor
    axes: Tensor

    def __init__(self, network: EnergyNet, noising: Noising) -> None:
        super().__init__()
        self.network, self.event_shape = network, network.event_shape
        d = torch.Size(self.event_shape).numel()
        for name, c in zip(("a", "b"), noising, strict=True):
            self.register_buffer(name, c, persistent=False)
        for name, value in zip(Gaussian._fields, (torch.zeros(d), torch.ones(d), torch.eye(d)), strict=True):
            self.register_buffer(name, value)

    @torch.no_grad()
    def take(self, data: Gaussian) -> None:
        """Adopt the moments of the data, including the noise on them."""
        for name, value in data._asdict().items():
            getattr(self, name).copy_(value)

    @property
    def levels(self) -> tuple[Tensor, Tensor]:
        """Means and variances of every level, in the axes."""
        return Gaussian(self.centre, self.variances, self.axes).at_levels(Noising(self.a, self.b))

    def points(self, noise: Tensor, t: Tensor) -> Tensor:
        """Samples of the Gaussian at labels (B,), from standard normal noise (B, *event)."""
        means, variances = self.levels
        return ((means[t] + variances[t].sqrt() * noise.flatten(1)) @ self.axes.T).view_as(noise)

    def gaussians(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, variances (B, d) and the logarithm of their product (B,) at labels (B,)."""
        means, variances = self.levels
        return means[t], variances[t], variances.log().sum(1)[t]

    def conditions(self, t: Tensor) -> tuple[Tensor, ...]:
        """The Gaussians of labels (B,), and the conditions of the network."""
        return *self.gaussians(t), *(self.network.conditions(t) if self.network.conditioned else (t,))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """U (B,) at points (B, *event) and labels (B,)."""
        return self.network(x, t) + self.base(self.turned(x), *self.gaussians(t))

    def at(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """U (B,) at points (B, *event), given what depends on their labels."""
        energy = self.network.at if self.network.conditioned else self.network
        return energy(x, *conditions[3:]) + self.base(self.turned(x), *conditions[:3])

    def every(self, x: Tensor, labels: Tensor) -> Tensor:
        """U (B, L) at every one of the labels (L,)."""
        return at_every_label(self.network, labels)(x) + self.base(self.turned(x)[:, None], *self.gaussians(labels))

    def turned(self, x: Tensor) -> Tensor:
        """Points (B, d) along the axes."""
        return x.flatten(1) @ self.axes

    def base(self, along: Tensor, means: Tensor, variances: Tensor, volume: Tensor) -> Tensor:
        """-log of the density (...) of Gaussians at points (..., d) along the axes, without the (d/2) log 2π of all."""
        return 0.5 * (((along - means).square() / variances).sum(-1) + volume)
