"""CIFAR-10."""

from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10 as TorchvisionCIFAR10
from torchvision.datasets.utils import check_integrity

from pt_flows.bounds import Count
from pt_flows.contracts import Split
from pt_flows.data.base import require
from pt_flows.data.images import ArrayImages, data_root
from pt_flows.errors import UserError


class CIFAR10(ArrayImages):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in ten classes.

    Torchvision reads it and checks the MD5 of every file. It is downloaded if no file is there.

    Args:
        root: Folder that holds (or will hold) `cifar-10-batches-py`; default $PT_FLOWS_DATA, else `data`.
        batch_size: Images of one minibatch over all ranks.
        flip: Whether to mirror half of the training images left to right.
        iterations_per_block: Iterations that one Lightning step runs.
    """

    event_shape = (3, 32, 32)
    num_classes = 10

    def __init__(
        self, root: str | None = None, batch_size: Count = 64, flip: bool = True, iterations_per_block: Count = 1
    ) -> None:
        super().__init__(batch_size, flip, iterations_per_block)
        self.root = data_root(root)

    def prepare_data(self) -> None:
        """Download once per machine, if no file is there yet."""
        if not self.missing() or self.damaged():
            return
        try:
            TorchvisionCIFAR10(str(self.root), download=True)
        except (URLError, OSError, RuntimeError) as error:
            raise UserError(self.advice(f" ({error})")) from error

    def missing(self) -> list[str]:
        """Names of missing batch files."""
        return [name for name, _ in _files() if not (self.folder / name).is_file()]

    def damaged(self) -> list[str]:
        """Names of batch files that are not the official ones."""
        there = [(name, md5) for name, md5 in _files() if (self.folder / name).is_file()]
        return [name for name, md5 in there if not check_integrity(str(self.folder / name), md5)]

    @property
    def folder(self) -> Path:
        """The folder of the batch files."""
        return self.root / TorchvisionCIFAR10.base_folder

    def load(self, split: Split) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, 32, 32) and labels (N,).

        Raises:
            UserError: Files are missing or damaged; the error names them.
        """
        damaged = ", ".join(self.damaged())
        advice = "Delete and download again, or restore the official files"
        require(not damaged, self.folder, "the official MD5 sums", f"damaged files: {damaged}. {advice}")
        if self.missing():
            raise UserError(self.advice())
        data = TorchvisionCIFAR10(str(self.root), train=split == "train")
        return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)

    def advice(self, reason: str = "") -> str:
        """Return the sentence about missing files."""
        missing = ", ".join(self.missing()) or "valid files"
        return (
            f"{self.folder}: expected the files of cifar-10-python.tar.gz, got no {missing}{reason}. Put them there "
            "or set data.root or $PT_FLOWS_DATA to the folder above them. "
            "Without them, make train-cifar DATASET=shapes32 runs the same recipe on a built-in set"
        )


def _files() -> list[tuple[str, str]]:
    meta = TorchvisionCIFAR10.meta
    lists = TorchvisionCIFAR10.train_list + TorchvisionCIFAR10.test_list
    return [(name, md5) for name, md5 in lists] + [(str(meta["filename"]), str(meta["md5"]))]
