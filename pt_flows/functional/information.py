r"""Mutual information between continuous variables, from counts in bins.

    I(z, v) = Σ p(z, v) log( p(z, v) / (p(z) p(v)) )           over bins of z and v
    M_ij    = I(z_i, v_j) / H(v_j)                             the matrix of latents z and factors v
    gap     = mean over j of (largest - second largest of M_ij over i)

Normalised as in Srivastava et al. 2019, SimVAE, arXiv:1911.08051; the gap is due to Chen et al. 2018, Isolating Sources
of Disentanglement, arXiv:1802.04942. Bins that hold equally many values are ours: they make the numbers independent of
the scale of a variable. Counts overestimate the information, by about (bins - 1)² / 2n nats for n samples.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def binned(values: Float[Tensor, "n d"], num_bins: int) -> Int[Tensor, "n d"]:
    """Indices of bins 0 ... num_bins - 1 with equally many values of every column. Equal values share a bin."""
    levels = torch.arange(1, num_bins, device=values.device) / num_bins
    columns = values.T.contiguous()
    positions = (levels * columns.shape[1]).long()
    return torch.searchsorted(columns.sort(1).values[:, positions], columns, right=True).T


def entropy(counts: Float[Tensor, "*rest k"]) -> Float[Tensor, "*rest"]:
    """Entropy in nats of the fractions of counts, along the last dimension."""
    p = counts / counts.sum(-1, keepdim=True)
    return -torch.special.xlogy(p, p).sum(-1)


def mutual_information(z: Float[Tensor, "n d"], v: Float[Tensor, "n k"], num_bins: int) -> Float[Tensor, "d k"]:
    """Mutual information in nats of every pair of columns, at least 0, in float64."""
    a, b = binned(z, num_bins), binned(v, num_bins)
    joint = (a[:, :, None] * num_bins + b[:, None, :]).flatten(1)
    counts = torch.zeros(joint.shape[1], num_bins**2, dtype=torch.float64, device=z.device)
    counts.scatter_add_(1, joint.T, torch.ones_like(joint.T, dtype=torch.float64))
    table = counts.view(-1, num_bins, num_bins)
    found = entropy(table.sum(2)) + entropy(table.sum(1)) - entropy(counts)
    return found.clamp_min(0).view(z.shape[1], v.shape[1])


def information_matrix(z: Float[Tensor, "n d"], v: Float[Tensor, "n k"], num_bins: int) -> Float[Tensor, "d k"]:
    """Mutual information of latents and factors over the entropy of the factor: 0 to 1."""
    own = mutual_information(v, v, num_bins).diagonal()
    return mutual_information(z, v, num_bins) / own.clamp_min(1e-12)


def information_gap(matrix: Float[Tensor, "d k"]) -> float:
    """Mean over factors of the difference of the largest and the second largest information in a column.

    Example:
        >>> round(information_gap(torch.tensor([[0.9, 0.1], [0.2, 0.7]])), 2)
        0.65
    """
    first, second = matrix.topk(2, 0).values
    return float((first - second).mean())
