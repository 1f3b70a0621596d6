"""Bounds of log-likelihoods from importance weights."""

import math

from jaxtyping import Float
from torch import Tensor


def importance_bound(log_w: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """L_K = log (1/K) Σ_k w_k, whose mean is at most log E w.

    Burda, Grosse, Salakhutdinov 2016, arXiv:1509.00519. Its mean rises with K, and K = 1 gives the evidence
    lower bound of Kingma and Welling 2014, arXiv:1312.6114.

    Example:
        >>> import torch
        >>> importance_bound(torch.tensor([[1.0, 3.0]]).log())
        tensor([0.6931])
    """
    return log_w.logsumexp(1) - math.log(log_w.shape[1])


def effective_size(log_w: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """Effective number of importance samples, 1 / Σ_k v_k² with normalised weights v: from 1 to K.

    Example:
        >>> import torch
        >>> effective_size(torch.zeros(1, 4))
        tensor([4.])
    """
    return 1 / log_w.softmax(1).square().sum(1)
