"""Activation checkpointing: blocks that are computed again in backward passes, which saves memory and costs time."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


def recomputed(block: nn.Module, *inputs: Tensor) -> Tensor:
    """Apply the block to its inputs without keeping its inner activations for the backward pass.

    Gradients of every order are those of `block(*inputs)`. The block must have no random layers: they would draw again.

    Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174.
    """
    if not torch.is_grad_enabled():
        return block(*inputs)
    contexts = lambda: (nullcontext(), _StatisticsAtRest(block))
    return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


class _StatisticsAtRest:
    """Keeps the running statistics of batch norm, which include these inputs already.

    It is entered for every repetition of a block. A penalty on gradients repeats a block twice.
    """

    def __init__(self, block: nn.Module) -> None:
        self.norms = [m for m in block.modules() if isinstance(m, BatchNorm) and m.training and m.track_running_stats]

    def __enter__(self) -> None:
        self.before = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, count) in zip(self.norms, self.before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
