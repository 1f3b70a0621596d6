"""Bytes of images, and floats in [-1, 1]."""

import torch
from torch import Tensor


def as_float(images: Tensor) -> Tensor:
    """Images uint8 as floats in [-1, 1].

    Example:
        >>> as_float(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([-1.,  1.])
    """
    return images.to(torch.get_default_dtype()) / 127.5 - 1


def as_points(x: Tensor) -> Tensor:
    """Samples as methods see them: images uint8 as floats in [-1, 1], others as they are."""
    return as_float(x) if x.dtype == torch.uint8 else x


def as_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] to bytes by rounding to the nearest level.

    Example:
        >>> as_uint8(torch.tensor([-1.0, 0.0, 0.999, 1.0, 1.2])).tolist()
        [0, 128, 255, 255, 255]
    """
    return x.float().mul(127.5).add(128).floor().clamp(0, 255).to(torch.uint8)
