"""Image sets that fit in memory: uint8 arrays, kept on the training device if they fit there."""

import os
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pt_flows.bounds import Count
from pt_flows.contracts import Batch, Shape, Split
from pt_flows.data.base import first_not_finite, require
from pt_flows.data.shuffled import Shuffled
from pt_flows.errors import UserError
from pt_flows.functional.pixels import as_float
from pt_flows.training.noise import generator_at, run_seed


class ArrayImages(Shuffled):
    """Base of image sets in arrays: shuffled without replacement, flipped on the device, scaled to [-1, 1].

    Every image is used once per epoch. An epoch may end inside a minibatch, and no image is dropped.

    Args:
        batch_size: Images of one minibatch over all ranks.
        flip: Whether to mirror half of the images left to right.
        iterations_per_block: Iterations that one Lightning step runs.

    Attributes:
        resident_share: Largest fraction of a GPU's free memory that images may take.
    """

    def __init__(self, batch_size: Count, flip: bool, iterations_per_block: Count) -> None:
        super().__init__(batch_size, iterations_per_block)
        self.flip = flip
        self.resident_share = 0.25
        self._arrays: dict[Split, tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def load(self, split: Split) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, C, H, W) with values from 0 to 255, and labels int64 (N,), zeros if there are none."""

    def arrays(self, split: Split) -> tuple[Tensor, Tensor]:
        """Images and labels of a split, loaded and checked once.

        Raises:
            UserError: `load` returned something else than its contract says.
        """
        if split not in self._arrays:
            images, labels = self.load(split)
            where = f"{type(self).__name__}.load({split!r})"
            check_images(where, images, self.event_shape)
            check_labels(where, labels, len(images), self.num_classes)
            self._arrays[split] = images, labels
        return self._arrays[split]

    def check(self) -> None:
        """Load the training split, so that missing files and wrong types are noticed before anything is computed."""
        self.arrays("train")

    @property
    def resident(self) -> bool:
        """Whether the training images live on the training device."""
        if self.device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(self.device)
        return self.arrays("train")[0].nbytes < self.resident_share * free

    @property
    def workers(self) -> int:
        """Zero if the images are on the device; else two processes that gather minibatches on the host."""
        return 0 if self.arrays("train")[0].device == self.device else 2

    def place(self, device: torch.device) -> None:
        """Draw on this device from now on, with the images on it if they fit there."""
        super().place(device)
        if self.resident:
            images, labels = self.arrays("train")
            self._arrays["train"] = (images.to(device), labels.to(device))

    def draw(self, iteration: int, num_minibatches: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images uint8 (num_minibatches, B, C, H, W), and labels and flips, each (num_minibatches, B)."""
        images, labels = self.arrays("train")
        shape = (num_minibatches, self.batch_size)
        i = self.indices(iteration * shape[0] * shape[1], shape[0] * shape[1]).view(shape)[:, self.share]
        rng = generator_at("cpu", run_seed(), "flip", iteration)
        flip = (torch.rand(shape, generator=rng) < 0.5 * self.flip)[:, self.share]
        i, flip = i.to(images.device, non_blocking=True), flip.to(images.device, non_blocking=True)
        return images[i], labels[i], flip

    def on_after_batch_transfer(self, batch: tuple[Tensor, ...], dataloader_idx: int) -> tuple[Tensor, ...]:
        """Flip and scale to float [-1, 1] on the device."""
        if len(batch) != 3:
            return batch
        x, y, flip = batch
        return mirrored(x, flip if self.flip else None), y

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Images float (num, C, H, W) drawn with replacement, half of them mirrored if the set is."""
        images, _ = self.arrays("train")
        i = torch.randint(len(images), (num,), generator=rng, device=rng.device)
        flip = torch.rand(num, generator=rng, device=rng.device) < 0.5 if self.flip else None
        return mirrored(images[i.to(images.device)].to(rng.device), flip)

    def labelled(self, split: Split) -> tuple[Tensor, Tensor]:
        """All images of a split, float (N, C, H, W) in [-1, 1], and their labels (N,), on the host."""
        images, labels = self.arrays(split)
        return as_float(self.measured(images.cpu(), split)), labels.cpu()

    def held_out(self, num: int) -> Batch:
        """Images of the test split, float (num, C, H, W) in [-1, 1], and labels (num,): the first of a fixed order."""
        images, labels = self.arrays("test")
        chosen = self._fixed_order("test")[:num]
        x = self.measured(images[chosen.to(images.device)].cpu(), "test")
        return as_float(x), labels[chosen.to(labels.device)].cpu()

    def reference(self, split: Split, num: int | None = None) -> Tensor:
        """The split's images uint8 on the host; the first `num` of one fixed random order."""
        images = self.arrays(split)[0].cpu()
        if num is None or num == len(images):
            return self.measured(images, split)
        where = f"{type(self).__name__}.reference({split!r})"
        require(num <= len(images), where, f"at most {len(images)} images", f"{num}. Ask for fewer")
        return self.measured(images[self._fixed_order(split)[:num]], split)

    def measured(self, images: Tensor, split: Split) -> Tensor:
        """Fixed images uint8 of a split as measurements see them. A subclass that trains on others overrides it."""
        return images

    def _fixed_order(self, split: Split) -> Tensor:
        """One random order of a split's images, the same for every run."""
        return torch.randperm(len(self.arrays(split)[0]), generator=generator_at("cpu", "reference", split))


def check_images(where: str, images: Tensor, event_shape: Shape) -> None:
    """Check the images of a split. Only the first thousand are read, because they may be mapped from disk.

    Raises:
        UserError: Their type, range or shape is wrong.
    """
    wanted, kind = "images uint8 with values from 0 to 255", type(images).__name__
    require(isinstance(images, Tensor), where, wanted, f"{kind}. Return torch.from_numpy(images)")
    if images.dtype != torch.uint8:
        i = first_not_finite(images)
        require(i is None, where, wanted, f"{images.dtype}, and image {i} has values that are not finite")
        low, high = (float(images.min()), float(images.max())) if images.numel() else (0.0, 0.0)
        advice = "Convert floats in [-1, 1] by ((x + 1) * 127.5).round().to(torch.uint8)"
        require(False, where, wanted, f"{images.dtype} from {low:g} to {high:g}. {advice}")
    shape = f"(N, {', '.join(map(str, event_shape))}), that is (N, *event_shape)"
    fits = images.dim() == 4 and tuple(images.shape[1:]) == tuple(event_shape) and len(images) > 0
    advice = "Channels come first: images.permute(0, 3, 1, 2)"
    require(fits, where, f"images of shape {shape}", f"{tuple(images.shape)}. {advice}")
    is_dark = int(images[:1000].max()) <= 1
    require(not is_dark, where, wanted, "0 and 1 only, which are nearly black. Multiply images in [0, 1] by 255")


def check_labels(where: str, labels: Tensor, num: int, num_classes: int) -> None:
    """Check the labels of a split.

    Raises:
        UserError: Their type, number or range is wrong.
    """
    found = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
    require(found == f"torch.int64 ({num},)", where, f"labels int64 ({num},)", f"{found}. Without labels return zeros")
    low, high = int(labels.min()), int(labels.max())
    fits = not num_classes or 0 <= low <= high < num_classes
    require(fits, where, f"labels from 0 to {num_classes - 1} (num_classes)", f"{low} to {high}")


def downsampled(images: Tensor, size: int) -> Tensor:
    """Images uint8 (N, C, size, size), downsampled with antialiasing and rounded."""
    return interpolate(images.float(), (size, size), mode="bilinear", antialias=True).round().to(torch.uint8)


def mirrored(images: Tensor, flip: Tensor | None) -> Tensor:
    """Images uint8 (..., C, H, W) as floats in [-1, 1], mirrored if their `flip` (...) is true."""
    x = as_float(images)
    return x if flip is None else torch.where(flip[..., None, None, None], x.flip(-1), x)


D = TypeVar("D")


def read_set(make: Callable[[], D], name: str, root: Path, files: str) -> D:
    """Read or download a data set with torchvision.

    Args:
        make: Function that constructs it.
        name: Its name.
        root: Its folder.
        files: The files that should be there.

    Raises:
        UserError: It is damaged, or missing and cannot be downloaded.
    """
    try:
        return make()
    except Exception as error:  # torchvision checks little, so damaged files raise many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        advice = f"Put {files} there, or set data.root or $PT_FLOWS_DATA to the folder that holds them"
        raise UserError(f"{name}: cannot be read from {root} or downloaded ({reason}). {advice}") from error


def data_root(root: str | None) -> Path:
    """Folder of downloaded data: the given one, else $PT_FLOWS_DATA, else `data` in the working directory."""
    return Path(root or os.environ.get("PT_FLOWS_DATA") or "data")
