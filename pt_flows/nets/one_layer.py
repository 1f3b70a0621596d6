"""The networks of one-layer generative adversarial games, which have closed forms (`functional.one_layer`)."""

import torch
from torch import Tensor, nn

from pt_flows.bounds import Count, Positive
from pt_flows.contracts import CriticNet, GeneratorNet
from pt_flows.functional.one_layer import Activation, activate, deactivate


class OneLayerGenerator(GeneratorNet):
    """x = φ(A z) with a matrix A (dim, latent_dim) and z ~ N(0, I).

    Args:
        dim: Number of coordinates d of a sample.
        latent_dim: Number of latents k; the theory has k = d.
        activation: φ.
        init_std: Standard deviation of the entries of A.
    """

    def __init__(
        self,
        dim: Count = 2,
        latent_dim: Count | None = None,
        activation: Activation = "leaky_relu",
        init_std: Positive = 1.0,
    ) -> None:
        super().__init__()
        self.event_shape, self.latent_shape = (dim,), (latent_dim or dim,)
        self.activation: Activation = activation
        self.A = nn.Parameter(init_std * torch.randn(dim, latent_dim or dim))

    def forward(self, z: Tensor) -> Tensor:
        """Samples (B, d) from latents (B, k)."""
        return activate(z @ self.A.T, self.activation)


class QuadraticCritic(CriticNet):
    """The logit yᵀ V y + b with y = φ⁻¹(x), which contains the best discriminator of one-layer generators.

    ReLU is invertible only where all outputs are above zero. Elsewhere the logit is zero: the game matches Gaussians
    that are truncated to this set.

    Args:
        dim: Number of coordinates d of a sample.
        activation: φ of the data and of the generator.
    """

    def __init__(self, dim: Count = 2, activation: Activation = "leaky_relu") -> None:
        super().__init__()
        self.event_shape = (dim,)
        self.activation: Activation = activation
        self.V, self.b = nn.Parameter(torch.zeros(dim, dim)), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B,) of samples (B, d)."""
        y = deactivate(x, self.activation)
        logit = torch.einsum("bi,ij,bj->b", y, self.V, y) + self.b
        return logit * (x > 0).all(1) if self.activation == "relu" else logit
