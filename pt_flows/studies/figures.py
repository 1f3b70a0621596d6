"""Figures of a study."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def last_picture(folder: Path) -> Path | None:
    """Return the last picture of samples that a run has drawn; None if there is none."""
    return max((folder / "pictures").glob("[0-9]*.png"), default=None)


def samples_figure(files: Mapping[str, Path]) -> Any:
    """Return a figure with a picture of each arm; None if there is none.

    Args:
        files: Pictures by the names of their arms.
    """
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    if not files:
        return None
    images = {name: imread(file) for name, file in files.items()}
    columns = min(2, len(images))
    rows = -(-len(images) // columns)
    height, width = next(iter(images.values())).shape[:2]
    figure = Figure(figsize=(6 * columns, (6 * height / width + 0.3) * rows), layout="constrained")
    for axis in (axes := list(figure.subplots(rows, columns, squeeze=False).flat)):
        axis.axis("off")
    for axis, (name, image) in zip(axes, images.items(), strict=False):
        axis.imshow(image)
        axis.set_title(name, fontsize=10)
    return figure
