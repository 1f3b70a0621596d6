"""Images of any generator, from a folder or an array file."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pt_flows.contracts import Split
from pt_flows.data.image_files import open_image
from pt_flows.errors import UserError
from pt_flows.progress import track
from pt_flows.training.noise import generator_at

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class ImageFiles:
    """A set of images that a metric can measure, or use as its reference.

    Args:
        path: A folder of images of one size and mode, with subfolders, or an .npz or .npy file with one array uint8
            (N, H, W, C), under `samples` or alone.

    Raises:
        UserError: There are no images, or they cannot be read or differ in kind.
    """

    num_classes = 0

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix in (".npz", ".npy"):
            self.images = from_array(path)
        elif path.is_dir():
            self.images = from_folder(path)
        else:
            raise UserError(f"{path}: expected a folder of images, or an .npz or .npy file, got none. Correct the path")
        self.event_shape = tuple(self.images.shape[1:])

    def reference(self, split: Split, num: int | None = None) -> Tensor:
        """Images uint8 (num, C, H, W), in the order of the files; fewer than all are the first of a fixed random order.

        Raises:
            UserError: There are fewer images, or another split is requested: they are one set.
        """
        if split != "train":
            raise UserError(f"--split: expected train, as {self.path} is one set of images, got {split}. Omit it")
        if num is not None and num > len(self.images):
            raise UserError(f"--n: expected at most {len(self.images)}, the images of {self.path}, got {num}. Lower it")
        if num is None or num == len(self.images):
            return self.images
        return self.images[torch.randperm(len(self.images), generator=generator_at("cpu", "images"))[:num]]


def from_array(path: Path) -> Tensor:
    """Images of an array file.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    try:
        array = read_array(path)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as an array file ({error}). Write it again with numpy") from error
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] not in (1, 3) or not len(array):
        wanted = "images uint8 (N, H, W, 3) or (N, H, W, 1)"
        raise UserError(f"{path}: expected {wanted}, got {array.dtype} of shape {array.shape}. Convert it")
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def read_array(path: Path) -> np.ndarray:
    """Read the array of an .npy file, or of an .npz file under `samples` or alone.

    Raises:
        ValueError: The file cannot be read. The text is the reason.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        return loaded["samples" if "samples" in loaded else loaded.files[0]]
    except Exception as error:  # numpy, zipfile and zlib raise many kinds on damaged files
        raise ValueError(str(error) or type(error).__name__) from error


def from_folder(folder: Path) -> Tensor:
    """Images of a folder, in the order of their paths.

    Raises:
        UserError: There are none, one cannot be read, or sizes or modes differ.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"{folder}: expected images ({', '.join(SUFFIXES)}), got none. Give another folder")
    images, first = [], None
    for file in track(files, "reading images"):
        image = open_image(file)
        kind = (image.size, image.mode)
        if image.mode not in ("L", "RGB") or image.has_transparency_data:
            got = image.mode if image.mode not in ("L", "RGB") else "a transparent colour"
            raise UserError(f"{file}: expected mode RGB or L without transparency, got {got}. Convert the images")
        images.append(np.asarray(image))
        first = first or kind
        if kind != first:
            wanted, got = (f"{mode} of size {size}" for size, mode in (first, kind))
            raise UserError(
                f"{file}: expected {wanted}, like {files[0].name}, got {got}. Convert the images to one kind"
            )
    array = np.stack(images)
    return torch.from_numpy(array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)).contiguous()
