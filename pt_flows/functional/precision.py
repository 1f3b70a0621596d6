"""Types in which energies, slopes and penalties are computed, whatever the points have."""

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """Values in float32, or as they are in float64.

    Example:
        >>> [widened(torch.zeros(1, dtype=dtype)).dtype for dtype in (torch.bfloat16, torch.float64)]
        [torch.float32, torch.float64]
    """
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
