"""A source and a target data set, for generators that map one domain to another."""

from typing import Any

import torch
from torch import Tensor

from pt_flows.contracts import Batch, Split
from pt_flows.data.base import BlockLoader, FlowData, require


class TwoDomains(FlowData):
    """Data of the target, for a generator that starts from samples of `source` instead of noise.

    Batch size and block length are the target's. Source samples are drawn with replacement.

    Args:
        source: Data that the generator moves.
        target: Data that it should reach.
    """

    source: FlowData

    def __init__(self, source: FlowData, target: FlowData) -> None:
        super().__init__(target.batch_size, target.iterations_per_block)
        self.source, self.target = source, target
        self.event_shape, self.num_classes = target.event_shape, target.num_classes
        for name in ("law", "labelled"):  # metrics use those of the target
            if hasattr(target, name):
                setattr(self, name, getattr(target, name))
        classes, wanted = source.num_classes, target.num_classes
        fits = not classes or not wanted or classes == wanted
        require(fits, "data.source", f"{wanted} classes like data.target", f"{classes}. Give both the same classes")

    def prepare_data(self) -> None:
        """Download both, if they are missing."""
        for data in (self.source, self.target):
            data.prepare_data()

    def setup(self, stage: str) -> None:
        """Load both, so that missing files are noticed before anything is computed."""
        for data in (self.source, self.target):
            data.setup(stage)
        self.num_classes = self.target.num_classes

    def train_dataloader(self) -> BlockLoader:
        """The target's blocks; the source goes to the training device as well."""
        assert self.trainer is not None
        self.source.place(self.trainer.strategy.root_device)
        self.target.trainer = self.trainer
        return self.target.train_dataloader()

    def draw(self, iteration: int, num_minibatches: int) -> tuple[Tensor, ...]:
        """Draw from the target."""
        return self.target.draw(iteration, num_minibatches)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Transform the target's batch."""
        return self.target.on_after_batch_transfer(batch, dataloader_idx)

    def reference(self, split: Split, num: int | None = None) -> Tensor:
        """The target's reference samples."""
        return self.target.reference(split, num)

    def held_out(self, num: int) -> Batch:
        """Samples of the target that training does not use."""
        return self.target.held_out(num)

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Samples of the target."""
        return self.target.sample(num, rng)
