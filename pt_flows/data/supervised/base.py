"""The base of data for predictions: samples with targets, in arrays."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.contracts import Batch, Split
from pt_flows.data.base import first_not_finite, require
from pt_flows.data.images import check_labels
from pt_flows.data.shuffled import Shuffled


class Supervised(Shuffled):
    """Base of samples with targets: floats x (N, *event_shape) and y (N, *target_shape), kept on the training device.

    Targets are labels from 0 to num_classes - 1, or floats if `real_targets` is true.

    Args:
        batch_size: Samples of one minibatch over all ranks.
        iterations_per_block: Iterations that one Lightning step runs.
    """

    def __init__(self, batch_size: Count, iterations_per_block: Count) -> None:
        super().__init__(batch_size, iterations_per_block)
        self._arrays: dict[Split, tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def load(self, split: Split) -> tuple[Tensor, Tensor]:
        """Samples and targets of a split, on the host."""

    def arrays(self, split: Split) -> tuple[Tensor, Tensor]:
        """Samples and targets of a split, loaded and checked once.

        Raises:
            UserError: `load` returned something else than its contract says.
        """
        if split not in self._arrays:
            x, y = self.load(split)
            where = f"{type(self).__name__}.load({split!r})"
            x = stacked(where, x)
            wanted = (len(x), *self.event_shape)
            require(tuple(x.shape) == wanted and len(x) > 0, where, f"samples of shape {wanted}", f"{tuple(x.shape)}")
            require((i := first_not_finite(x)) is None, where, "finite values", f"others in sample {i}. Remove it")
            self._check_targets(where, y, len(x))
            self._arrays[split] = x, y
        return self._arrays[split]

    def _check_targets(self, where: str, y: Tensor, num: int) -> None:
        """Check the targets of a split."""
        if not self.real_targets:
            shape = (num, *self.target_shape)
            require(tuple(y.shape) == shape, where, f"targets of shape {shape}", f"{tuple(y.shape)}")
            check_labels(where, y.flatten(), y.numel(), self.num_classes)
            return
        fits = y.is_floating_point() and tuple(y.shape) == (num, *self.target_shape) and bool(y.isfinite().all())
        wanted = f"finite float targets of shape {(num, *self.target_shape)}"
        require(fits, where, wanted, f"{y.dtype} of shape {tuple(y.shape)}, or values that are not finite")

    def check(self) -> None:
        """Load the training split, so that missing files and wrong types are noticed before anything is computed."""
        self.arrays("train")

    def place(self, device: torch.device) -> None:
        """Draw on this device from now on."""
        super().place(device)
        x, y = self.arrays("train")
        self._arrays["train"] = x.to(device), y.to(device)

    def draw(self, iteration: int, num_minibatches: int) -> tuple[Tensor, Tensor]:
        """Samples (num_minibatches, B, *event) and targets (num_minibatches, B, *target_shape)."""
        x, y = self.arrays("train")
        shape = (num_minibatches, self.batch_size)
        i = self.indices(iteration * shape[0] * shape[1], shape[0] * shape[1]).view(shape)[:, self.share].to(x.device)
        return x[i].to(torch.get_default_dtype()), y[i].to(torch.get_default_dtype()) if self.real_targets else y[i]

    def labelled(self, split: Split) -> tuple[Tensor, Tensor]:
        """All samples of a split and their targets, on the host."""
        x, y = self.arrays(split)
        return x.cpu(), y.cpu()

    def reference(self, split: Split, num: int | None = None) -> Tensor:
        """The first `num` samples of a split."""
        x = self.arrays(split)[0].cpu()
        where = f"{type(self).__name__}.reference({split!r})"
        require(num is None or num <= len(x), where, f"at most {len(x)} samples", f"{num}. Ask for fewer")
        return x[:num]

    def held_out(self, num: int) -> Batch:
        """The first samples of the test split, and their targets."""
        x, y = self.labelled("test")
        return x[:num], y[:num]

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Samples (num, *event) drawn with replacement, without targets."""
        x = self.arrays("train")[0]
        i = torch.randint(len(x), (num,), generator=rng, device=rng.device)
        return x[i.to(x.device)].to(rng.device)


def stacked(where: str, x: Any) -> Tensor:
    """A tensor as it is, and a list of sequences as one tensor.

    Raises:
        UserError: Sequences have unequal lengths.
    """
    if isinstance(x, Tensor):
        return x
    rows: Sequence[Tensor] = [torch.as_tensor(row) for row in x]
    lengths = sorted({len(row) for row in rows})
    advice = "Cut them, or pad them at the front"
    require(len(lengths) == 1, where, "sequences of one length", f"lengths from {min(lengths, default=0)} to "
            f"{max(lengths, default=0)}. {advice}")  # fmt: skip
    return torch.stack(list(rows))
