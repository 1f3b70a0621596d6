"""Pictures of samples: grids of images, and densities in the plane."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
from torch import Tensor
from torchvision.utils import make_grid, save_image

FEW = 1_000
"""Number of points below which a histogram shows where they fell by chance."""


def num_shown(event_shape: Sequence[int]) -> int:
    """Number of samples in a picture: 64 images or 5,000 points."""
    return 64 if len(event_shape) == 3 else 5_000


def save_samples(x: Tensor, path: Path, title: str, beside: Mapping[str, Tensor]) -> bool:
    """Write a picture of samples: a grid of images, or points in the plane beside others.

    Args:
        x: Samples (n, *event).
        path: The file to write.
        title: Title of the points.
        beside: Other points by title. The first ones, such as the target, set the frame.

    Returns:
        Whether there is a picture; there is none of samples of other shapes.
    """
    shape = tuple(x.shape[1:])
    if len(shape) == 3:
        save_grid(x, path)
    elif shape == (2,):
        panels = {name: points[: num_shown(shape)] for name, points in beside.items()}
        save_density(panels | {title: x}, path)
    return len(shape) == 3 or shape == (2,)


def save_grid(x: Tensor, path: Path, columns: int | None = None) -> None:
    """Write a grid of images as PNG. Small images are enlarged.

    Args:
        x: Images (B, C, H, W) in [-1, 1].
        path: The file to write.
        columns: Number of columns; default that of a nearly square grid.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(large_grid_of(x, columns or int(np.ceil(len(x) ** 0.5))), path)


def save_rows(x: Tensor, path: Path, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Write images as rows with headings.

    Args:
        x: Images (rows * columns, C, H, W) in [-1, 1], row by row.
        path: The file to write, a .png.
        columns: Headings of columns.
        rows: Headings of rows.
    """
    from matplotlib.figure import Figure

    grid = large_grid_of(x, len(columns)).permute(1, 2, 0).numpy()
    height, width = (side / n for side, n in zip(grid.shape[:2], (len(rows), len(columns)), strict=True))
    figure = Figure(figsize=(len(columns) + 0.6, len(rows) * height / width + 0.4), layout="constrained")
    axis = figure.subplots()
    axis.imshow(grid, interpolation="nearest")
    axis.set_xticks([(i + 0.5) * width for i in range(len(columns))], columns, fontsize=9)
    axis.set_yticks([(i + 0.5) * height for i in range(len(rows))], rows, fontsize=9)
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    for side in axis.spines.values():
        side.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def large_grid_of(x: Tensor, columns: int) -> Tensor:
    """The grid of `grid_of`, where small images are enlarged."""
    enlarge = max(1, 64 // x.shape[-1])
    return grid_of(x, columns).repeat_interleave(enlarge, 1).repeat_interleave(enlarge, 2)


def grid_of(x: Tensor, columns: int) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] as one image (C, height, width) in [0, 1], with white lines between them."""
    return make_grid(x.clamp(-1, 1).float().cpu() / 2 + 0.5, nrow=columns, padding=1, pad_value=1.0)


def save_density(panels: dict[str, Tensor], path: Path) -> None:
    """Draw samples in the plane side by side, as points over their smoothed histograms.

    Few samples are points alone. A colour is the same density in all panels.

    Args:
        panels: Samples (n, 2) by title. The first panel, the target, sets the frame and the scale of densities.
        path: The file to write.
    """
    from matplotlib.figure import Figure

    first = next(iter(panels.values()))
    centre = (first.amax(0) + first.amin(0)) / 2
    half = 0.65 * float((first.amax(0) - first.amin(0)).max())
    (left, bottom), (right, top) = (centre - half).tolist(), (centre + half).tolist()
    figure = Figure(figsize=(4 * len(panels), 4.6), layout="constrained")
    highest = None
    for axis, (title, x) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        x = x.float().cpu()
        histogram, _, _ = np.histogram2d(
            x[:, 0].numpy(), x[:, 1].numpy(), bins=120, range=[[left, right], [bottom, top]]
        )
        few, density = len(x) < FEW, smooth(histogram / len(x)).T
        highest = float(density.max()) if highest is None else highest
        if not few:
            axis.imshow(
                density,
                origin="lower",
                extent=(left, right, bottom, top),
                cmap="Blues",
                interpolation="bilinear",
                vmin=0,
                vmax=highest,
            )
        shown = x[:1000]
        axis.scatter(shown[:, 0], shown[:, 1], s=10 if few else 2, c="#d95f02", alpha=0.5, linewidths=0)
        outside = 1 - float(((x - centre).abs() <= half).all(1).float().mean())
        axis.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")
        full = f"{title}, n = {len(x):,}" + (f" ({outside:.0%} outside)" if outside >= 0.005 else "")
        axis.set_title(fill(full, 48), fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def smooth(histogram: np.ndarray) -> np.ndarray:
    """Blur a histogram by a Gaussian of 1.5 bins, and take the square root, which makes thin parts visible."""
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        histogram = np.apply_along_axis(np.convolve, axis, histogram, kernel, "same")
    return np.sqrt(histogram)
