"""Images in one folder per class: ImageNet's usual layout."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from pt_flows.contracts import Split
from pt_flows.data.base import require
from pt_flows.data.image_files import open_image
from pt_flows.errors import UserError

FOLDERS: dict[Split, str] = {"train": "train", "test": "val"}


class ClassFolders(NamedTuple):
    """Image files with their labels, which number the classes in alphabetical order."""

    files: list[str]
    labels: list[int]
    classes: list[str]


def list_images(root: Path, split: Split) -> ClassFolders:
    """The images of `train/<class>` or `val/<class>`; both have the classes of `train`.

    Raises:
        UserError: The folder is missing, a class has no images, or the splits disagree about classes.
    """
    folder, training = root / FOLDERS[split], root / FOLDERS["train"]
    try:
        present, _ = find_classes(folder)
        classes, numbers = find_classes(training if training.is_dir() else folder)
        pairs = make_dataset(folder, {name: numbers[name] for name in present}, IMG_EXTENSIONS)
    except FileNotFoundError as error:
        advice = "Set data.root to a folder of train/<class>/*.JPEG and val/<class>/*.JPEG, or of prepared images"
        raise UserError(f"{folder}: expected images, got none ({error}). {advice}") from error
    except KeyError as error:
        raise UserError(f"{folder}: expected the classes of {training}, got {error}. Remove its folder") from error
    return ClassFolders([path for path, _ in pairs], [label for _, label in pairs], classes)


def decode(path: str, size: int) -> np.ndarray:
    """One image as RGB uint8 (size, size, 3): its central square, downsampled with Lanczos' filter.

    Raises:
        UserError: The file cannot be read as an image, or is smaller than `size`.
    """
    image = open_image(path, as_rgb=True)
    found = f"{image.size[0]}x{image.size[1]}. Remove it or lower the image size"
    require(min(image.size) >= size, path, f"at least {size}x{size} pixels", found)
    return np.array(
        image if image.size == (size, size) else ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    )
