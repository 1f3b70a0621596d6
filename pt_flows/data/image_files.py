"""Image files, read as a viewer shows them."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pt_flows.errors import UserError


def open_image(path: str | Path, as_rgb: bool = False) -> Image.Image:
    """Read one image with 8 bits per channel, turned by its EXIF tag; greyscale images with 16 bits are rounded to 8.

    Args:
        path: The file.
        as_rgb: Whether to convert any mode to RGB, with white behind transparent pixels.

    Raises:
        UserError: The file is damaged, too large to be an image, or has 32 bits per channel, whose range is unknown.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            image.load()
            if image.mode.startswith("I;16"):
                image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
            if as_rgb and image.mode not in ("I", "F"):
                image = opaque(image).convert("RGB")
    except Exception as error:  # damage raises many kinds, and a header of 60000x60000 one of its own
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: cannot be read as an image ({reason}). Delete or restore it") from error
    if image.mode in ("I", "F"):
        raise UserError(f"{path}: expected 8 or 16 bits per channel, got 32 (mode {image.mode}). Convert it")
    return image


def opaque(image: Image.Image) -> Image.Image:
    """The image over a white ground; the image itself if it has no transparency."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
