"""What the two players of a GAN descend, as functions of the discriminator's logits (high on data).

Both losses are means over the batch; the discriminator's is the sum of its real and its generated part, without a half.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

Objective = Literal["non_saturating", "saturating", "wasserstein"]


def discriminator_loss(
    a_real: Float[Tensor, " B"], a_fake: Float[Tensor, " C"], objective: Objective = "non_saturating"
) -> Tensor:
    """E softplus(-a(x)) + E softplus(a(G(z))), or for "wasserstein" E a(G(z)) - E a(x).

    The first is the cross-entropy of Goodfellow et al. 2014, Eq. 1, arXiv:1406.2661, in logits; 2 ln 2 where the
    discriminator can tell nothing apart.

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
