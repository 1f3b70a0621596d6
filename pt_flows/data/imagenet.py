"""ImageNet, or any images in one folder per class."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.contracts import Split
from pt_flows.data.class_folders import FOLDERS, decode, list_images
from pt_flows.data.images import ArrayImages, data_root
from pt_flows.data.prepared import read_prepared
from pt_flows.progress import track


class ImageNet(ArrayImages):
    """ImageNet, from its usual layout or prepared by `pt-flows prepare imagenet`.

    Files of the usual layout, `train/<class>/*.JPEG` and `val/<class>/*.JPEG`, are decoded at every start and held in
    memory, which suits subsets. Prepared images are checked at the start and read when training needs them. An image
    takes 3 · size² bytes: all of ImageNet 16 GB at 64 pixels and 63 GB at 128. Labels number the class folders of
    `train` in alphabetical order. Images of another size are cut to their central square and downsampled (Lanczos).

    Args:
        root: Folder that holds `train` and `val`, or prepared images; default `imagenet<image_size>` in
            $PT_FLOWS_DATA, else in `data`.
        image_size: Height and width.
        batch_size: Images of one minibatch over all ranks.
        flip: Whether to mirror half of the training images left to right.
        iterations_per_block: Iterations that one Lightning step runs.
    """

    def __init__(
        self,
        root: str | None = None,
        image_size: Count = 64,
        batch_size: Count = 64,
        flip: bool = True,
        iterations_per_block: Count = 1,
    ) -> None:
        super().__init__(batch_size, flip, iterations_per_block)
        self.root = Path(root) if root else data_root(None) / f"imagenet{image_size}"
        self.image_size, self.event_shape = image_size, (3, image_size, image_size)

    def load(self, split: Split) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, size, size) and labels (N,).

        Raises:
            UserError: The folder is missing or has no images, or a file cannot be used; the error names it.
        """
        if (self.root / "index.json").is_file():
            images, labels, classes = read_prepared(self.root, split, self.image_size)
            self.num_classes = len(classes)
            return images, labels
        files, labels, classes = list_images(self.root, split)
        self.num_classes = len(classes)
        images = torch.empty(len(files), 3, self.image_size, self.image_size, dtype=torch.uint8)
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(partial(decode, size=self.image_size), files)
            for i, image in enumerate(track(decoded, f"reading {self.root / FOLDERS[split]}", len(files))):
                images[i] = torch.from_numpy(image).permute(2, 0, 1)
        return images, torch.tensor(labels)
