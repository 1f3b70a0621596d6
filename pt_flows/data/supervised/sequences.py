"""Sequences with targets: rows of images of digits, and the characters of a text."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pt_flows.bounds import Count
from pt_flows.contracts import Split
from pt_flows.data.base import require
from pt_flows.data.images import data_root, read_set
from pt_flows.data.supervised.base import Supervised
from pt_flows.errors import UserError

RowsName = Literal["mnist", "digits"]
NUM_TEST = 797
"""Test samples of scikit-learn's digits, the last ones."""


class ImageRows(Supervised):
    """Images of digits as sequences of rows from top to bottom, x (T, F) in [0, 1], with one label each.

    "mnist" has 60,000 and 10,000 sequences (28, 28). "digits" are scikit-learn's 1,797 images of 8x8 pixels, 1,000 for
    training and 797 for tests; they need the extra `digits`.

    Args:
        name: The images.
        num_train: Number of training samples, the first ones; None for all.
        root: Folder that holds (or will hold) `MNIST/raw`; default $PT_FLOWS_DATA, else `data`.
        batch_size: Sequences of one minibatch over all ranks.
        iterations_per_block: Iterations that one Lightning step runs.
    """

    num_classes = 10

    def __init__(
        self,
        name: RowsName = "mnist",
        num_train: Count | None = None,
        root: str | None = None,
        batch_size: Count = 64,
        iterations_per_block: Count = 1,
    ) -> None:
        super().__init__(batch_size, iterations_per_block)
        self.name, self.num_train, self.root = name, num_train, data_root(root)
        self.event_shape = (28, 28) if name == "mnist" else (8, 8)

    def prepare_data(self) -> None:
        """Download once per machine, if files are missing."""
        if self.name == "mnist":
            for split in ("train", "test"):
                self._mnist(split, download=True)

    def load(self, split: Split) -> tuple[Tensor, Tensor]:
        """Sequences (N, T, F) and labels (N,).

        Raises:
            UserError: Files are missing, there are fewer samples, or scikit-learn is not installed.
        """
        x, y = self._mnist(split) if self.name == "mnist" else _digits(split)
        num = self.num_train if split == "train" else None
        where = "ImageRows.num_train"
        require(num is None or num <= len(x), where, f"at most {len(x)}, the number of images", f"{num}. Lower it")
        return x[:num], y[:num]

    def _mnist(self, split: Split, download: bool = False) -> tuple[Tensor, Tensor]:
        from torchvision.datasets import MNIST

        make = lambda: MNIST(str(self.root), train=split == "train", download=download)
        data = read_set(make, "MNIST", self.root, "MNIST/raw with its four files")
        return data.data / 255, torch.as_tensor(data.targets)


def _digits(split: Split) -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        wanted = "expected scikit-learn for its digits, got no such package"
        raise UserError(f"ImageRows.name: {wanted}. Run pip install 'pt-flows[digits]', or use mnist") from error
    data: Any = load_digits()
    x, y = torch.as_tensor(data.images).float() / 16, torch.as_tensor(data.target).long()
    return (x[:-NUM_TEST], y[:-NUM_TEST]) if split == "train" else (x[-NUM_TEST:], y[-NUM_TEST:])


class Text(Supervised):
    """The characters of a text file: x one-hot (T, symbols), y the next symbol at every step (T,).

    Samples are pieces of equal length that do not overlap. The first nine tenths of them are for training, the others
    for tests.

    Args:
        path: A text file in UTF-8.
        length: Number T of characters of a sample.
        batch_size: Samples of one minibatch over all ranks.
        iterations_per_block: Iterations that one Lightning step runs.

    Attributes:
        symbols: The different characters of the file, in the order of their code points; their number is `num_classes`.

    Raises:
        UserError: There is no such file, it is no text, or it has fewer than two symbols or too few characters.
    """

    def __init__(self, path: str, length: Count = 25, batch_size: Count = 32, iterations_per_block: Count = 1) -> None:
        super().__init__(batch_size, iterations_per_block)
        text = read_text(Path(path))
        self.symbols = sorted(set(text))
        found = f"{len(self.symbols)} in {len(text)} characters"
        require(len(self.symbols) > 1, path, "a text with two different characters or more", f"{found}. Use another")
        wanted = f"more than {2 * length} characters, for two samples of length {length}"
        require(len(text) > 2 * length, path, wanted, f"{len(text)}. Lower data.length, or use a longer text")
        number = {symbol: i for i, symbol in enumerate(self.symbols)}
        self.codes = torch.tensor([number[symbol] for symbol in text])
        self.num_classes = len(self.symbols)
        self.event_shape, self.target_shape = (length, self.num_classes), (length,)

    def load(self, split: Split) -> tuple[Tensor, Tensor]:
        """Sequences (N, T, symbols) and the next symbols (N, T)."""
        (length,) = self.target_shape
        num = (len(self.codes) - 1) // length
        before, after = (self.codes[i : i + num * length].view(num, length) for i in (0, 1))
        cut = min(num - 1, max(1, round(0.9 * num)))
        part = slice(None, cut) if split == "train" else slice(cut, None)
        return one_hot(before[part], self.num_classes).to(torch.get_default_dtype()), after[part].clone()


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        UserError: There is no such file, or it is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "another encoding" if isinstance(error, UnicodeDecodeError) else (error.strerror or str(error)).lower()
        raise UserError(f"{path}: expected a text file in UTF-8, got {reason}. Check data.path") from error
