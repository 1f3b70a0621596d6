"""Figures of a study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def samples_figure(folders: Mapping[str, Sequence[Path]]) -> Any:
    """Return a figure with the last picture of the first run of each arm; None if there is none.

    Args:
        folders: Folders of the finished runs of each arm.
    """
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    last = lambda folder: sorted((folder / "pictures").glob("[0-9]*.png"))[-1:]
    files = {name: [file for folder in ended for file in last(folder)] for name, ended in folders.items()}
    found = {name: own[0] for name, own in files.items() if own}
    if not found:
        return None
    images = {name: imread(file) for name, file in found.items()}
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
