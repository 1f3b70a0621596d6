r"""Closed forms of one-layer generators x = φ(A z), z ~ N(0, I): moments, best critics and errors.

    moment game      max_V  <V, E_data x xᵀ - E_gen x xᵀ> - ½ ‖V‖²      at V = the gap of the moments, value ½ ‖gap‖²
    log-loss game    max_D  E log D + E log (1 - D)                     at logit D = yᵀ V y + b,  y = φ⁻¹(x)
                     V = ½ (Σ_A⁻¹ - Σ*⁻¹),  b = ½ log (det Σ_A / det Σ*),   Σ_A = A Aᵀ

Moment game: Lei, Lee, Dimakis, Daskalakis 2020, SGD Learns One-Layer Networks in WGANs, arXiv:1910.07030.
Log-loss game: Kontonis, Liu, Tzamos 2020, Convergence and Sample Complexity of SGD in GANs, arXiv:2012.00732; its body
was not available, so the discriminator is derived here from the densities.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Activation = Literal["identity", "tanh", "leaky_relu", "relu"]
SLOPE = 0.2
"""Slope of leaky ReLU below zero."""


def activate(y: Tensor, activation: Activation) -> Tensor:
    """φ(y), in every coordinate."""
    match activation:
        case "identity":
            return y
        case "tanh":
            return y.tanh()
        case "leaky_relu":
            return torch.where(y > 0, y, SLOPE * y)
        case "relu":
            return y.relu()


def deactivate(x: Tensor, activation: Activation) -> Tensor:
    """φ⁻¹(x), in every coordinate; for ReLU x itself, which is right where it is above zero.

    Example:
        >>> deactivate(torch.tensor([0.5, -0.2]), "leaky_relu")
        tensor([ 0.5000, -1.0000])
    """
    match activation:
        case "tanh":
            return x.clamp(-1 + 1e-6, 1 - 1e-6).atanh()
        case "leaky_relu":
            return torch.where(x > 0, x, x / SLOPE)
        case _:
            return x


def matrix_of(columns: Float[Tensor, "k d"], mirrored: Float[Tensor, "k d"], activation: Activation) -> Tensor:
    """The matrix A (d, k) of a generator, from its samples at the unit latents e_i and at -e_i.

    Args:
        columns: φ(A e_i).
        mirrored: φ(-A e_i), which tells the columns of ReLU below zero.
        activation: φ.
    """
    return (columns - mirrored if activation == "relu" else deactivate(columns, activation)).T


def moment_kernel(rho: Tensor, activation: Literal["leaky_relu", "relu"]) -> Tensor:
    """E φ(u·z) φ(v·z) of unit vectors u, v with u·v = ρ: the entries of the second moment of φ(A z) with unit rows.

    Cho and Saul 2009, Kernel Methods for Deep Learning, of degree one, for ReLU.

    Example:
        >>> moment_kernel(torch.tensor(0.6), "relu"), moment_kernel(torch.tensor(1.0), "leaky_relu")
        (tensor(0.3388), tensor(0.5200))
    """
    rho = rho.clamp(-1.0, 1.0)
    sine = (1 - rho.square()).sqrt()
    if activation == "relu":
        return (sine + (math.pi - rho.acos()) * rho) / (2 * math.pi)
    odd, even = ((1 + SLOPE) / 2) ** 2, ((1 - SLOPE) / 2) ** 2
    return odd * rho + even * (2 / math.pi) * (sine + rho * rho.asin())


def best_discriminator(A: Float[Tensor, "d k"], truth: Float[Tensor, "d k"]) -> tuple[Tensor, Tensor]:
    """V (d, d) and b of the best logit yᵀ V y + b between data φ(A* z) and samples φ(A z), for invertible φ.

    Args:
        A: Matrix of the generator, of full rank d.
        truth: A*.
    """
    own, real = A @ A.T, truth @ truth.T
    V = 0.5 * (torch.linalg.inv(own) - torch.linalg.inv(real))
    return V, 0.5 * (torch.logdet(own) - torch.logdet(real))


def score_form(
    A: Float[Tensor, "d k"], x: Float[Tensor, "B d"], values: Float[Tensor, " B"], activation: Activation
) -> Tensor:
    """A scalar whose gradient in A is that of E f(φ(A z)), by the score: E f(x) ∇_A log p(y), y = φ⁻¹(x) ~ N(0, A Aᵀ).

    It needs no derivative of f. The gradient through samples misses the jump of a discriminator of ReLU at the boundary
    of its invertible set; this one does not.

    Args:
        A: Matrix of the generator, of full rank d.
        x: Samples φ(A z).
        values: f(x), constants. For ReLU they must be zero outside the invertible set: log 2 + log (1 - D) is.
        activation: φ.
    """
    y, covariance = deactivate(x, activation).detach(), A @ A.T
    squares = (torch.linalg.solve(covariance, y.T).T * y).sum(1)
    return -0.5 * (values.detach() * (squares + torch.logdet(covariance))).mean()


def moment_error(covariance: Float[Tensor, "d d"], real: Float[Tensor, "d d"]) -> float:
    """‖Σ - Σ*‖ in the Frobenius norm, the error in the game of moments."""
    return float(torch.linalg.matrix_norm(covariance - real))


def relative_error(covariance: Float[Tensor, "d d"], real: Float[Tensor, "d d"]) -> float:
    """E = ‖Σ*^{-1/2} Σ Σ*^{-1/2} - I‖: the total variation of centred Gaussians is min(1, E) up to constants.

    Devroye, Mehrabian, Reddad 2018, arXiv:1810.08693. Σ* must be of full rank.
    """
    values, vectors = torch.linalg.eigh(real.double())
    root = (vectors / values.sqrt()) @ vectors.T
    return float(
        torch.linalg.matrix_norm(root @ covariance.double() @ root - torch.eye(len(real), dtype=torch.float64))
    )
