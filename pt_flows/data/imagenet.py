"""ImageNet, or any images in one folder per class."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from pt_flows.contracts import Split, UserError
from pt_flows.data.images import ArrayImages, data_root
from pt_flows.progress import track

FOLDERS: dict[Split, str] = {"train": "train", "test": "val"}


class ImageNet(ArrayImages):
    """ImageNet in its usual layout, `train/<class>/*.JPEG` and `val/<class>/*.JPEG`, decoded once and held in memory.

    An image takes 3 · size² bytes: all of ImageNet 16 GB at 64 pixels and 63 GB at 128. Labels number the class folders
    of `train` in alphabetical order. Images of another size are cut to their central square and reduced (Lanczos).

    Args:
        root: Folder that holds `train` and `val`; default `imagenet<image_size>` in $PT_FLOWS_DATA, else in `data`.
        image_size: Height and width.
        batch_size: Images of one minibatch over all ranks.
        flip: Mirror half of the training images left to right.
        iterations_per_block: Iterations that one Lightning step runs.
    """

    def __init__(
        self,
        root: str | None = None,
        image_size: int = 64,
        batch_size: int = 64,
        flip: bool = True,
        iterations_per_block: int = 1,
    ) -> None:
        super().__init__(batch_size, flip, iterations_per_block)
        self.root = Path(root) if root else data_root(None) / f"imagenet{image_size}"
        self.image_size, self.event_shape = image_size, (3, image_size, image_size)

    def load(self, split: Split) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, size, size) and labels (N,).

        Raises:
            UserError: The folder is missing or has no images, or a file can not be used; says which.
        """
        folder, training = self.root / FOLDERS[split], self.root / FOLDERS["train"]
        try:
            present, _ = find_classes(folder)
            _, labels = find_classes(training if training.is_dir() else folder)
            files = make_dataset(folder, {name: labels[name] for name in present}, IMG_EXTENSIONS)
        except FileNotFoundError as error:
            raise UserError(
                f"no images in {folder} ({error}); data.root must hold train/<class>/*.JPEG and val/<class>/*.JPEG"
            ) from error
        except KeyError as error:
            raise UserError(f"{folder} has a class folder {error}, {training} has not; rename or remove it") from error
        self.num_classes = len(labels)
        images = torch.empty(len(files), 3, self.image_size, self.image_size, dtype=torch.uint8)
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(self.decode, (path for path, _ in files))
            for i, image in enumerate(track(decoded, f"reading {folder}", len(files))):
                images[i] = torch.from_numpy(image).permute(2, 0, 1)
        return images, torch.tensor([label for _, label in files])

    def decode(self, path: str) -> np.ndarray:
        """One image as RGB uint8 (size, size, 3).

        Raises:
            UserError: The file is damaged, or smaller than the images wanted.
        """
        size = self.image_size
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except OSError as error:
            raise UserError(f"{path} can not be read ({error}); delete it or restore it, and start again") from error
        if min(image.size) < size:
            raise UserError(f"{path} has {image.size[0]}x{image.size[1]} pixels, fewer than data.image_size ({size})")
        return np.array(
            image if image.size == (size, size) else ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
        )
