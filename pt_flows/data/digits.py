"""Handwritten digits of MNIST and USPS at one size: the domains on which transport maps are compared."""

from typing import Literal

import torch
from torch import Tensor
from torchvision.datasets import MNIST, USPS

from pt_flows.bounds import Count
from pt_flows.contracts import Split
from pt_flows.data.images import ArrayImages, data_root, downsampled, read_set

DigitsName = Literal["mnist", "usps"]
SIZE = 16


class Digits(ArrayImages):
    """MNIST (60,000 and 10,000) or USPS (7,291 and 2,007 digits), greyscale, 16x16; MNIST is downsampled.

    Args:
        name: The data set.
        root: Folder that holds (or will hold) `MNIST/raw`, or `usps.bz2` and `usps.t.bz2`; default $PT_FLOWS_DATA, else
            `data`.
        batch_size: Images of one minibatch over all ranks.
        iterations_per_block: Iterations that one Lightning step runs.
    """

    event_shape = (1, SIZE, SIZE)
    num_classes = 10

    def __init__(
        self,
        name: DigitsName = "mnist",
        root: str | None = None,
        batch_size: Count = 64,
        iterations_per_block: Count = 1,
    ) -> None:
        super().__init__(batch_size, flip=False, iterations_per_block=iterations_per_block)
        self.digits, self.root = name, data_root(root)

    def prepare_data(self) -> None:
        """Download once per machine, if the files are missing."""
        for split in ("train", "test"):
            self.read(split, download=True)

    def load(self, split: Split) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 1, 16, 16) and labels (N,).

        Raises:
            UserError: Files are missing or damaged.
        """
        data = self.read(split)
        images = torch.as_tensor(data.data)[:, None]
        if images.shape[-1] != SIZE:
            images = downsampled(images, SIZE)
        return images, torch.as_tensor(data.targets)

    def read(self, split: Split, download: bool = False) -> MNIST | USPS:
        """Read the split with torchvision."""
        files = "MNIST/raw with its four files" if self.digits == "mnist" else "usps.bz2 and usps.t.bz2"
        dataset = MNIST if self.digits == "mnist" else USPS
        make = lambda: dataset(str(self.root), train=split == "train", download=download)
        return read_set(make, self.digits, self.root, files)
