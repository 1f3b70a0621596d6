"""The base of data: batches as a function of (seed, iteration), in blocks."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pt_flows.bounds import Count, check_arguments, hints_of
from pt_flows.construction import Constructed
from pt_flows.contracts import Batch, Consumer, Shape, Split
from pt_flows.errors import UserError
from pt_flows.functional.pixels import as_points
from pt_flows.training.distributed import world


class FlowData(Constructed, L.LightningDataModule, ABC):
    """Base of all data: endless, without state, with as many minibatches per iteration as the method consumes.

    The minibatches of an iteration depend on (seed, iteration) alone. So a resumed run sees the same data as an
    uninterrupted one, and the position in the data need not be saved. Each rank takes its part of one global batch.

    Args:
        batch_size: Samples of one minibatch over all ranks.
        iterations_per_block: Iterations that one Lightning step runs. More than one saves the Trainer's cost per step,
            which for toys exceeds the computation. Evaluation and checkpoints happen at ends of blocks.
    """

    event_shape: Shape
    num_classes: int = 0
    target_shape: Shape = ()
    """Shape of the target of one sample: empty for a label or a value, (T,) for one label at every step."""
    real_targets: bool = False
    """Whether targets are floats, for regression, instead of labels."""
    trained_seed: int | None = None
    """Seed of the finished run that these data belong to; None in training."""

    def __init__(self, batch_size: Count, iterations_per_block: Count) -> None:
        super().__init__()
        given = {"batch_size": batch_size, "iterations_per_block": iterations_per_block}
        check_arguments(f"{type(self).__name__}.", hints_of(FlowData), given)  # a subclass may have computed them
        self.batch_size, self.iterations_per_block = batch_size, iterations_per_block
        self.device = torch.device("cpu")
        self.rank, self.num_ranks = 0, 1
        self._is_checked = False

    @abstractmethod
    def draw(self, iteration: int, num_minibatches: int) -> tuple[Tensor, ...]:
        """Draw this rank's part of one iteration: x (num_minibatches, B, *event) and y (num_minibatches, B) first.

        Targets may have more dimensions, `target_shape`, or be floats, if `real_targets` is true.
        """

    @abstractmethod
    def reference(self, split: Split, num: int | None = None) -> Tensor:
        """Fixed real samples to measure against, the same for every run: floats for toys, uint8 for images.

        Raises:
            UserError: The split has fewer samples.
        """

    def fingerprint(self, split: Split) -> str:
        """A hash that runs with comparable numbers share; by default empty, for that of the fixed real samples.

        Data that depend on the run's seed override it.

        Args:
            split: The split of the fixed real samples.
        """
        return ""

    def up_to(self, split: Split, num: int) -> Tensor:
        """The first `num` fixed real samples of a split, or all of them if it has fewer."""
        return self.reference(split, min(num, len(self.reference(split))))

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Independent training samples (num, *event) as a method sees them, on the generator's device.

        Data with this method can be the source of a map between domains.
        """
        raise UserError(f"{type(self).__name__}: expected data that draw single samples, got others. Define sample")

    def held_out(self, num: int) -> Batch:
        """Real samples that training does not use, as a method sees them: x (num, *event), and labels (num,).

        They are the first ones of the test split here, fewer if it has fewer. Images are not mirrored, and labels are
        zeros. Data that draw fresh samples, or that have labels, override it.

        Raises:
            UserError: There is no test split, or the data have classes.
        """
        x = as_points(self.up_to("test", num))
        has_labels = f"samples with labels, as there are {self.num_classes} classes"
        require(not self.num_classes, f"{type(self).__name__}.held_out", has_labels, "none. Override it")
        return x, torch.zeros(len(x), dtype=torch.int64)

    def setup(self, stage: str) -> None:
        """Check the data. A subclass that loads them here calls this afterwards.

        Raises:
            UserError: They break the contract; see `check`.
        """
        has_shape = getattr(self, "event_shape", None) is not None
        advice = "Set it to the shape of one sample"
        require(has_shape, type(self).__name__, "an event_shape", f"none. {advice}")
        self.check()

    def check(self) -> None:
        """Check all samples once, so that damaged data are not mistaken for divergence.

        Raises:
            UserError: Samples do not have the shape `event_shape`, or a value is not finite.
        """
        if self._is_checked:
            return
        splits: dict[Split, Tensor] = {"train": self.reference("train")}
        with suppress(UserError):  # data may have one split only
            splits["test"] = self.reference("test")
        for split, x in splits.items():
            name, shape, wanted = type(self).__name__, tuple(x.shape[1:]), tuple(self.event_shape)
            where = f"in the {split} split. Change either"
            require(shape == wanted, name, f"samples of shape {wanted} (event_shape)", f"{shape} {where}")
            i = first_not_finite(x)
            where = f"in sample {i} of the {split} split. Remove or replace such samples"
            require(i is None, name, "finite values", f"others {where}")
        self._is_checked = True

    def check_draw(self, draw: tuple[Tensor, ...], iteration: int, num_minibatches: int) -> None:
        """Check the first draw of a run.

        Raises:
            UserError: Shapes or types are not those of the contract, or values are not finite.
        """
        name, (x, y, *_) = f"{type(self).__name__}.draw", draw
        wanted = (num_minibatches, self.batch_size // self.num_ranks, *self.event_shape)
        what, advice = "(minibatches, samples, event_shape)", "Draw batch_size samples and return x[:, self.share]"
        require(tuple(x.shape) == wanted, name, f"x of shape {wanted} {what}", f"{tuple(x.shape)}. {advice}")
        shape = (*wanted[:2], *self.target_shape)
        fits = tuple(y.shape) == shape and (y.is_floating_point() if self.real_targets else y.dtype == torch.int64)
        kind = "float" if self.real_targets else "int64"
        require(fits, name, f"y {kind} of shape {shape}", f"{y.dtype} of shape {tuple(y.shape)}")
        i = first_not_finite(x.flatten(0, 1))
        at = divmod(i or 0, wanted[1])
        where = f"at iteration {iteration} in sample {at[1]} of minibatch {at[0]}. Check the values that draw computes"
        require(i is None, name, "finite values", f"others {where}")

    @property
    def share(self) -> slice:
        """The slice of this rank's samples in a global minibatch."""
        each = self.batch_size // self.num_ranks
        return slice(self.rank * each, (self.rank + 1) * each)

    @property
    def workers(self) -> int:
        """Number of processes that draw ahead of training; 0 draws in the training process, on its device."""
        return 0

    def train_dataloader(self) -> "BlockLoader":
        """Blocks from the method's iteration on."""
        assert self.trainer is not None
        self.check()
        self.rank, self.num_ranks = world()
        self.place(self.trainer.strategy.root_device)
        divides = self.batch_size % self.num_ranks == 0
        require(divides, "data.batch_size", f"a multiple of the {self.num_ranks} processes", f"{self.batch_size}")
        return BlockLoader(self, self.trainer)

    def place(self, device: torch.device) -> None:
        """Draw on this device from now on."""
        self.device = device

    def val_dataloader(self) -> DataLoader[int]:
        """A loader of one step. A callback evaluates on `reference` samples."""
        return DataLoader(_Range(1))

    def test_dataloader(self) -> DataLoader[int]:
        """A loader of one step, as for validation."""
        return self.val_dataloader()


class BlockLoader:
    """Endless blocks of iterations, each tensor of shape (iterations, minibatches, B, ...).

    Blocks end at multiples of `iterations_per_block` and at the last iteration, wherever the run starts.
    """

    def __init__(self, data: FlowData, trainer: L.Trainer) -> None:
        self.data, self.trainer = data, trainer

    def __iter__(self) -> Iterator[Any]:
        method = cast(Consumer, self.trainer.lightning_module)
        start, stop = method.iteration, self.trainer.max_steps
        iterations = range(start, stop if stop >= 0 else sys.maxsize)
        draws = self._draws(iterations, method.minibatches_per_iteration)
        block = []
        for iteration, draw in zip(iterations, draws, strict=True):
            if iteration == start:
                self.data.check_draw(draw, iteration, method.minibatches_per_iteration)
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


def require(is_met: bool, where: str | Path, expected: str, got: str) -> None:
    """Check a requirement on data.

    Args:
        is_met: Whether the data meet it.
        where: The data set, the file or the key.
        expected: The requirement.
        got: The state of the data, and after a full stop the way to mend it.

    Raises:
        UserError: The data do not meet it.

    Example:
        >>> require(False, "Table", "an event_shape", "none. Set it to the shape of one sample")
        Traceback (most recent call last):
        pt_flows.errors.UserError: Table: expected an event_shape, got none. Set it to the shape of one sample
    """
    if not is_met:
        raise UserError(f"{where}: expected {expected}, got {got}")


def first_not_finite(x: Tensor) -> int | None:
    """Index of the first sample of x (num, *event) with a value that is not finite; None if there is none.

    Example:
        >>> first_not_finite(torch.tensor([[0.0, 1.0], [2.0, torch.inf]]))
        1
    """
    if not x.is_floating_point():
        return None
    bad = ~x.isfinite().flatten(1).all(1)
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


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
