"""Adversarial and contrastive losses.

GAN losses are functions of the discriminator's logits (high on data) and means over the batch. The discriminator's loss
is the sum of its real and its generated part, without a factor of one half.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from pt_flows.functional.distances import exact_distances

Objective = Literal["non_saturating", "saturating", "wasserstein"]


def discriminator_loss(
    a_real: Float[Tensor, " B"], a_fake: Float[Tensor, " C"], objective: Objective = "non_saturating"
) -> Tensor:
    """E softplus(-a(x)) + E softplus(a(G(z))), or for "wasserstein" E a(G(z)) - E a(x).

    The first is the cross-entropy of Goodfellow et al. 2014, Eq. 1, arXiv:1406.2661, in logits. It is 2 ln 2 if the
    discriminator cannot tell samples from data.

    Example:
        >>> discriminator_loss(torch.zeros(2), torch.zeros(3))
        tensor(1.3863)
    """
    if objective == "wasserstein":
        return a_fake.mean() - a_real.mean()
    return softplus(-a_real).mean() + softplus(a_fake).mean()


def generator_loss(a_fake: Float[Tensor, " B"], objective: Objective = "non_saturating") -> Tensor:
    """E softplus(-a(G(z))), or -E softplus(a(G(z))) for "saturating" (the zero-sum game), or -E a(G(z)).

    Example:
        >>> generator_loss(torch.zeros(2)), generator_loss(torch.zeros(2), "saturating")
        (tensor(0.6931), tensor(-0.6931))
    """
    match objective:
        case "non_saturating":
            return softplus(-a_fake).mean()
        case "saturating":
            return -softplus(a_fake).mean()
        case "wasserstein":
            return torch.neg(a_fake).mean()


def hinge_loss(a_real: Float[Tensor, " B"], a_fake: Float[Tensor, " C"]) -> Tensor:
    """E max(0, 1 - a(x)) + E max(0, 1 + a(G(z))): the discriminator's hinge loss; -E a(G(z)) is the generator's.

    Lim and Ye 2017, Geometric GAN, arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957, Eq. 16.

    Example:
        >>> hinge_loss(torch.tensor([2.0, 0.5]), torch.tensor([-3.0]))
        tensor(0.2500)
    """
    return (1 - a_real).relu().mean() + (1 + a_fake).relu().mean()


def pairing_loss(a_high: Float[Tensor, " B"], a_low: Float[Tensor, " B"]) -> Tensor:
    """E softplus(-(a_high - a_low)) over pairs: the relativistic loss of a player who wants the first logits higher.

    The discriminator takes data first, the generator its samples. It is log 2 at equal logits.
    Jolicoeur-Martineau 2018, The relativistic discriminator, arXiv:1807.00734.

    Example:
        >>> pairing_loss(torch.ones(2), torch.ones(2))
        tensor(0.6931)
    """
    return softplus(a_low - a_high).mean()


def nearest_log_distance(
    x: Float[Tensor, "B *event"], references: Float[Tensor, "M *event"], least: float = 1e-6
) -> Float[Tensor, " B"]:
    """Logarithms of the distances ρ_i = min_j ‖x_i - b_j‖; their mean is x's entropy per dimension plus a constant.

    For x and b of one distribution in d dimensions, d E log ρ + log V_d + log M + γ estimates the entropy, where V_d is
    the volume of the unit ball (Kozachenko and Leonenko 1987). For two distributions it estimates the cross-entropy
    of x's relative to b's.

    Args:
        x: Points.
        references: b.
        least: Smaller distances are replaced by it, without a gradient, so that duplicates do no harm.

    Example:
        >>> nearest_log_distance(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [3.0]]))
        tensor([0.0000, 0.6931])
    """
    return exact_distances(x, references).amin(1).clamp(min=least).log()
