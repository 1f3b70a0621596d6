"""MNIST and Fashion-MNIST at their own size, or at a size that convolutional networks halve well."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision import datasets

from pt_flows.bounds import Count
from pt_flows.contracts import Split
from pt_flows.data.images import ArrayImages, data_root, downsampled, read_set


class MNIST(ArrayImages):
    """Handwritten digits: 60,000 and 10,000 greyscale images in ten classes; downloaded if no file is there.

    Args:
        root: Folder that holds (or will hold) `MNIST/raw`; default $PT_FLOWS_DATA, else `data`.
        image_size: 28, 32 with two black pixels on every side, or 16, downsampled with antialiasing.
        batch_size: Images of one minibatch over all ranks.
        iterations_per_block: Iterations that one Lightning step runs.
    """

    num_classes = 10
    dataset: type[datasets.MNIST] = datasets.MNIST

    def __init__(
        self,
        root: str | None = None,
        image_size: Literal[16, 28, 32] = 32,
        batch_size: Count = 64,
        iterations_per_block: Count = 1,
    ) -> None:
        super().__init__(batch_size, flip=False, iterations_per_block=iterations_per_block)
        self.root, self.event_shape = data_root(root), (1, image_size, image_size)

    def prepare_data(self) -> None:
        """Download once per machine, if the files are missing."""
        for split in ("train", "test"):
            self.read(split, download=True)

    def load(self, split: Split) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 1, image_size, image_size) and labels (N,).

        Raises:
            UserError: Files are missing or damaged.
        """
        data, size = self.read(split), self.event_shape[-1]
        images, margin = data.data[:, None], (size - 28) // 2
        if size < 28:
            return downsampled(images, size), torch.as_tensor(data.targets)
        return pad(images, [margin] * 4), torch.as_tensor(data.targets)

    def read(self, split: Split, download: bool = False) -> datasets.MNIST:
        """Read the split with torchvision."""
        name, files = self.dataset.__name__, f"{self.dataset.__name__}/raw with its four files"
        make = lambda: self.dataset(str(self.root), train=split == "train", download=download)
        return read_set(make, name, self.root, files)


class FashionMNIST(MNIST):
    """Photographs of clothes in the form of MNIST (Xiao et al. 2017, arXiv:1708.07747), in `FashionMNIST/raw`."""

    dataset = datasets.FashionMNIST
