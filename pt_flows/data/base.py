"""The data's side of the contract: batches as a function of (seed, iteration), served in blocks."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pt_flows.contracts import Shape, Split, UserError
from pt_flows.state.distributed import world


class FlowData(L.LightningDataModule, ABC):
    """Base of all data: endless, stateless, aware of what the method consumes.

    The minibatches of an iteration depend on (seed, iteration) alone. So a resumed run sees what it would have seen,
    and nothing about the position in the data has to be saved. Each rank takes its share of one global batch.

    Args:
        batch_size: Samples of one minibatch over all ranks.
        iterations_per_block: Iterations that one Lightning step runs; more than one saves the Trainer's cost per step,
            which for toys exceeds the mathematics. Evaluation and checkpoints happen at ends of blocks.
    """

    event_shape: Shape
    num_classes: int = 0

    def __init__(self, batch_size: int, iterations_per_block: int) -> None:
        super().__init__()
        for key, value in (("batch_size", batch_size), ("iterations_per_block", iterations_per_block)):
            if value < 1:
                raise UserError(f"data.{key} must be at least 1, got {value}")
        self.batch_size, self.iterations_per_block = batch_size, iterations_per_block
        self.device = torch.device("cpu")
        self.rank, self.num_ranks = 0, 1

    @abstractmethod
    def draw(self, iteration: int, num_minibatches: int) -> tuple[Tensor, ...]:
        """This rank's share of one iteration: x (num_minibatches, B, *event) and y (num_minibatches, B) first."""

    @abstractmethod
    def reference(self, split: Split, num: int | None = None) -> Tensor:
        """Fixed real samples to measure against, the same for every run: floats for toys, uint8 for images.

        Raises:
            UserError: More samples are asked for than the split has.
        """

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Independent training samples (num, *event) as a method sees them, on the generator's device.

        Data that offer it can be the source of a map between domains.
        """
        raise UserError(f"{type(self).__name__} can not be a source: it does not draw single samples")

    @property
    def share(self) -> slice:
        """Where this rank's samples lie in a global minibatch."""
        each = self.batch_size // self.num_ranks
        return slice(self.rank * each, (self.rank + 1) * each)

    @property
    def workers(self) -> int:
        """Processes that draw ahead of training; 0 draws in the training process, on its device."""
        return 0

    def train_dataloader(self) -> "BlockLoader":
        """Blocks from the module's iteration on."""
        assert self.trainer is not None
        self.rank, self.num_ranks = world()
        self.place(self.trainer.strategy.root_device)
        if self.batch_size % self.num_ranks:
            raise UserError(
                f"data.batch_size ({self.batch_size}) is the global batch and must divide by the number of processes "
                f"({self.num_ranks})"
            )
        return BlockLoader(self, self.trainer)

    def place(self, device: torch.device) -> None:
        """Draw on this device from now on."""
        self.device = device

    def val_dataloader(self) -> DataLoader[int]:
        """One step: evaluation happens in a callback, on `reference` samples."""
        return DataLoader(_Range(1))

    def test_dataloader(self) -> DataLoader[int]:
        """One step, as for validation."""
        return self.val_dataloader()


class BlockLoader:
    """Endless blocks of iterations, each tensor of shape (iterations, minibatches, B, ...).

    Blocks end at multiples of `iterations_per_block` and at the last iteration, whatever iteration the run starts from.
    """

    def __init__(self, data: FlowData, trainer: L.Trainer) -> None:
        self.data, self.trainer = data, trainer

    def __iter__(self) -> Iterator[Any]:
        module: Any = self.trainer.lightning_module
        start, stop = module.iteration, self.trainer.max_steps
        iterations = range(start, stop if stop >= 0 else sys.maxsize)
        draws = self._draws(iterations, module.minibatches_per_iteration)
        block = []
        for iteration, draw in zip(iterations, draws, strict=True):
            block.append(draw)
            if (iteration + 1) % self.data.iterations_per_block == 0 or iteration + 1 == stop:
                yield tuple(
                    parts[0][None] if len(parts) == 1 else torch.stack(parts) for parts in zip(*block, strict=True)
                )
                block = []

    def _draws(self, iterations: Any, num_minibatches: int) -> Iterator[tuple[Tensor, ...]]:
        draw = _Draws(self.data, num_minibatches)
        if not self.data.workers:
            return (draw[iteration] for iteration in iterations)
        pinned = self.data.device.type == "cuda"
        return iter(
            DataLoader(draw, sampler=iterations, batch_size=None, num_workers=self.data.workers, pin_memory=pinned)
        )


class _Draws(Dataset[tuple[Tensor, ...]]):
    def __init__(self, data: FlowData, num_minibatches: int) -> None:
        self.data, self.num_minibatches = data, num_minibatches

    def __getitem__(self, iteration: int) -> tuple[Tensor, ...]:
        return self.data.draw(iteration, self.num_minibatches)


class _Range(Dataset[int]):
    def __init__(self, num: int) -> None:
        self.num = num

    def __getitem__(self, index: int) -> int:
        return index

    def __len__(self) -> int:
        return self.num
