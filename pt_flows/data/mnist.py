"""MNIST and Fashion-MNIST at their own size, or at a size that convolutional networks halve well."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision import datasets

from pt_flows.bounds import Count
from pt_flows.contracts import Split
from pt_flows.data.images import ArrayImages, data_root, downsampled, read_set
from pt_flows.training.noise import generator_at, run_seed

Binarisation = Literal["threshold", "dynamic"]


class MNIST(ArrayImages):
    """Handwritten digits: 60,000 and 10,000 greyscale images in ten classes; downloaded if no file is there.

    Args:
        root: Folder that holds (or will hold) `MNIST/raw`; default $PT_FLOWS_DATA, else `data`.
        image_size: 28, 32 with two black pixels on every side, or 16, downsampled with antialiasing.
        batch_size: Images of one minibatch over all ranks.
        iterations_per_block: Iterations that one Lightning step runs.
        binarise: Black and white pixels, for Bernoulli likelihoods. "threshold": white above half of the range.
            "dynamic": white with the probability of the grey value, drawn anew for every minibatch and once for the
            reference images. None keeps grey values.
    """

    num_classes = 10
    dataset: type[datasets.MNIST] = datasets.MNIST

    def __init__(
        self,
        root: str | None = None,
        image_size: Literal[16, 28, 32] = 32,
        batch_size: Count = 64,
        iterations_per_block: Count = 1,
        binarise: Binarisation | None = None,
    ) -> None:
        super().__init__(batch_size, flip=False, iterations_per_block=iterations_per_block)
        self.binarise = binarise
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
        images = downsampled(images, size) if size < 28 else pad(images, [margin] * 4)
        if self.binarise == "threshold":
            images = black_and_white(images, torch.tensor(0.5))
        return images, torch.as_tensor(data.targets)

    def draw(self, iteration: int, num_minibatches: int) -> tuple[Tensor, Tensor, Tensor]:
        """As for all images, binarised with noise of the iteration if binarisation is dynamic."""
        images, labels, flip = super().draw(iteration, num_minibatches)
        if self.binarise != "dynamic":
            return images, labels, flip
        shape = (num_minibatches, self.batch_size, *self.event_shape)
        rng = generator_at(images.device, run_seed(), "binarisation", iteration)
        u = torch.rand(shape, generator=rng, device=images.device)[:, self.share]
        return black_and_white(images, u), labels, flip

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """As for all images, binarised anew if binarisation is dynamic."""
        x = super().sample(num, rng)
        if self.binarise != "dynamic":
            return x
        u = torch.rand(x.shape, generator=rng, device=rng.device)
        return torch.where(2 * u < x + 1, 1.0, -1.0).to(x)

    def measured(self, images: Tensor, split: Split) -> Tensor:
        """Images uint8, binarised with one fixed draw if binarisation is dynamic."""
        if self.binarise != "dynamic":
            return images
        return black_and_white(images, torch.rand(images.shape, generator=generator_at("cpu", "binarisation", split)))

    def read(self, split: Split, download: bool = False) -> datasets.MNIST:
        """Read the split with torchvision."""
        name, files = self.dataset.__name__, f"{self.dataset.__name__}/raw with its four files"
        make = lambda: self.dataset(str(self.root), train=split == "train", download=download)
        return read_set(make, name, self.root, files)


def black_and_white(images: Tensor, u: Tensor) -> Tensor:
    """Images uint8 with the values 0 and 255: white where u, in [0, 1), is below the grey value from 0 to 1."""
    return (255 * u < images).to(torch.uint8) * 255


class FashionMNIST(MNIST):
    """Photographs of clothes in the form of MNIST (Xiao et al. 2017, arXiv:1708.07747), in `FashionMNIST/raw`."""

    dataset = datasets.FashionMNIST
