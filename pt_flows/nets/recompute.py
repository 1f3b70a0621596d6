"""Memory for time: blocks whose inside is computed again in backward passes instead of being kept."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, *inputs: Tensor) -> Tensor:
    """The block at its inputs; of what it computes inside, nothing is kept for a backward pass.

    Gradients of every order are those of `block(*inputs)`. Random layers would draw anew: the block must have none.

    Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174.
    """
    if not torch.is_grad_enabled():
        return block(*inputs)
    contexts = lambda: (nullcontext(), _StatisticsAtRest(block))
    return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


class _StatisticsAtRest:
    """Keeps batch norm's running statistics, which have seen these inputs already.

    It is entered for every repetition of a block; a penalty on gradients repeats it twice.
    """

    def __init__(self, block: nn.Module) -> None:
        self.norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]

    def __enter__(self) -> None:
        self.before = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, count) in zip(self.norms, self.before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
