"""The base of data sets in arrays, which are shuffled anew for every epoch."""

from abc import abstractmethod

import torch
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.contracts import Split
from pt_flows.data.base import FlowData
from pt_flows.training.noise import generator_at, run_seed


class Shuffled(FlowData):
    """Base of finite data sets, shuffled without replacement: every sample is used once per epoch.

    An epoch may end inside a minibatch, and no sample is dropped.

    Args:
        batch_size: Samples of one minibatch over all ranks.
        iterations_per_block: Iterations that one Lightning step runs.
    """

    def __init__(self, batch_size: Count, iterations_per_block: Count) -> None:
        super().__init__(batch_size, iterations_per_block)
        self._permutation: tuple[int, Tensor] | None = None

    @abstractmethod
    def arrays(self, split: Split) -> tuple[Tensor, Tensor]:
        """Samples and targets of a split."""

    def permutation(self, epoch: int) -> Tensor:
        """Order of the samples in an epoch, a function of (seed, epoch)."""
        if self._permutation is None or self._permutation[0] != epoch:
            rng = generator_at("cpu", run_seed(), "order", epoch)
            self._permutation = (epoch, torch.randperm(len(self.arrays("train")[0]), generator=rng))
        return self._permutation[1]

    def indices(self, start: int, num: int) -> Tensor:
        """Indices of the `num` samples from position `start` of the endless shuffled stream."""
        size = len(self.arrays("train")[0])
        pieces = []
        while num > 0:
            epoch, position = divmod(start, size)
            pieces.append(self.permutation(epoch)[position : position + num])
            start, num = start + len(pieces[-1]), num - len(pieces[-1])
        return torch.cat(pieces)
