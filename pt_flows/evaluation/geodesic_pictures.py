"""Pictures of straight lines and geodesics: in the plane of latents, as samples, as images, and their speeds."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from pt_flows.data.base import FlowData
from pt_flows.functional.geometry import Curves, Metric
from pt_flows.plots import grid_of

SHOWN = 8
"""Number of pairs in a picture of curves."""
STRIPS = 5
"""Number of pairs in a picture of images."""
IMAGES = 13
"""Number of images of a strip."""
CELLS = 101
"""Nodes of each side of the grid in the plane of latents."""
STEPS = [
    (1, 0),
    (0, 1),
    *((i, s * j) for i, j in ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)) for s in (1, -1)),
]
"""Edges of the grid, half of their directions."""
WAYS = (("straight", "--"), ("geodesic", "-"))


def draw_pictures(
    metric: Metric, lines: Curves, found: Curves, converged: Tensor, target: Path, data: FlowData | None
) -> list[Path]:
    """Draw all pictures that suit the latents and the samples, and return their files.

    Args:
        metric: The metric.
        lines: Straight lines.
        found: Geodesics of the same pairs.
        converged: Whether the search of each has settled (P,).
        target: The table, next to which the pictures are written.
        data: The data of the method, for the background of samples in the plane; None to omit it.
    """
    matplotlib.use("Agg")
    with torch.no_grad():
        event = metric.f(lines.points[:1, 0]).shape[1:]
    figures = {"speed": speeds(lines, found, converged)}
    if lines.points.shape[2] == 2:
        figures["plane"] = plane(metric, lines, found)
    if event == (2,):
        figures["samples"] = samples(metric, lines, found, data)
    if len(event) == 3:
        figures["strips"] = strips(metric, lines, found)
    paths = []
    for name, figure in figures.items():
        paths.append(target.with_name(f"{target.stem}_{name}.png"))
        figure.savefig(paths[-1], dpi=110)
    return paths


def speeds(lines: Curves, found: Curves, converged: Tensor) -> Figure:
    """The speed along both ways of a few pairs, one panel each; the area under a curve is its length.

    A geodesic has constant speed. One whose search has not settled is called so.
    """
    num = min(SHOWN, len(lines.points))
    columns = min(4, num)
    rows = -(-num // columns)
    figure = Figure(figsize=(3 * columns + 0.6, 2.4 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
    t = np.linspace(0, 1, lines.speed.shape[1])
    for i, axis in enumerate(axes):
        if i >= num:
            axis.set_axis_off()
            continue
        for curves, (name, style) in zip((lines, found), WAYS, strict=True):
            length = f"{name}, length {float(curves.length[i]):.3g}"
            axis.plot(t, curves.speed[i].cpu().numpy(), style, color=colour(name), label=length)
        axis.set_title(f"pair {i + 1}{'' if converged[i] else ', not settled'}", fontsize=9)
        axis.set_ylim(0, 1.35 * float(max(lines.speed[i].max(), found.speed[i].max())))
        axis.legend(fontsize=7, loc="upper right", frameon=False)
    figure.supxlabel("time t", fontsize=9)
    figure.supylabel("speed φ(t)", fontsize=9)
    return figure


def colour(way: str) -> str:
    """The colour of straight lines or of geodesics."""
    return {"straight": "#d95f02", "geodesic": "#1b6ca8"}[way]


def plane(metric: Metric, lines: Curves, found: Curves) -> Figure:
    """Magnification over two latents, with lines of equal distance from the first latent, and both ways of a few pairs.

    Distances are those of shortest paths on a grid with edges in 32 directions, about one per cent too long.
    """
    shown = torch.cat([lines.points[:SHOWN], found.points[:SHOWN]])
    low, high = shown.flatten(0, 1).amin(0), shown.flatten(0, 1).amax(0)
    centre, half = (low + high) / 2, 0.62 * float((high - low).max())
    sides = [torch.linspace(float(c) - half, float(c) + half, CELLS, device=shown.device) for c in centre]
    z = torch.cartesian_prod(*sides).to(shown)
    with torch.no_grad():
        parts = [(metric.log_magnification(part), metric(part)) for part in z.split(2048)]
    log_mf, G = (torch.cat(pieces).cpu() for pieces in zip(*parts, strict=True))
    grid = [side.cpu().numpy() for side in sides]
    figure = Figure(figsize=(7.2, 6.2), layout="constrained")
    axis = figure.subplots()
    shade = (log_mf / np.log(10)).clamp(min=float(log_mf.max()) / np.log(10) - 6).view(CELLS, CELLS).T.numpy()
    image = axis.pcolormesh(*grid, shade, cmap="gray", shading="nearest", rasterized=True)
    figure.colorbar(image, ax=axis, label="log₁₀ of the magnification factor")
    distance = distances(G, z.cpu(), lines.points[0, 0].cpu()).view(CELLS, CELLS).T.numpy()
    contours = axis.contour(*grid, distance, levels=12, colors="#2ca25f", linewidths=0.8)
    for label in axis.clabel(contours, fontsize=8, colors="#005a32"):
        label.set_path_effects([withStroke(linewidth=2, foreground="white")])
    for curves, (name, style) in zip((lines, found), WAYS, strict=True):
        for i, way in enumerate(curves.points[:SHOWN].cpu().numpy()):
            axis.plot(*way.T, style, color=colour(name), linewidth=1.6, label=name if i == 0 else None)
    for i, (x, y) in enumerate(lines.points[:SHOWN, -1].cpu().numpy()):
        axis.annotate(f"{i + 1}", (x, y), (4, 4), textcoords="offset points", fontsize=8,
                      path_effects=[withStroke(linewidth=2, foreground="white")])  # fmt: skip
    axis.scatter(
        *lines.points[:SHOWN, [0, -1]].flatten(0, 1).cpu().numpy().T, s=16, c="white", edgecolors="k", zorder=3
    )
    axis.scatter(*lines.points[0, 0].cpu().numpy(), s=90, marker="*", c="#2ca25f", edgecolors="k", zorder=4)
    axis.set(xlabel="z₁", ylabel="z₂", aspect="equal", title="green: equal distances from the star")
    axis.legend(loc="upper right", fontsize=8)
    return figure


def distances(G: Tensor, z: Tensor, source: Tensor) -> Tensor:
    """Lengths of the shortest paths (n,) on a square grid of latents from the node that is nearest to a latent.

    Args:
        G: Metrics at the nodes (n, 2, 2).
        z: Nodes (n, 2), the second latent running fastest.
        source: The latent (2,).
    """
    side = round(len(z) ** 0.5)
    index = torch.arange(len(z)).view(side, side)
    edges: list[tuple[Tensor, Tensor, Tensor]] = []
    for i, j in STEPS:
        first = index[: side - i, max(0, -j) : side - max(0, j)].flatten()
        last = index[i:, max(0, j) : side - max(0, -j)].flatten()
        dz = z[last] - z[first]
        length = lambda at, dz=dz: torch.einsum("bi,bij,bj->b", dz, G[at], dz).clamp(min=0).sqrt()
        edges.append((first, last, (length(first) + length(last)) / 2))
    first, last, length = (torch.cat(parts).double().numpy() for parts in zip(*edges, strict=True))
    graph = coo_array((length, (first.astype(int), last.astype(int))), shape=(len(z), len(z))).tocsr()
    nearest = int((z - source).square().sum(1).argmin())
    return torch.from_numpy(dijkstra(graph, directed=False, indices=nearest))


def samples(metric: Metric, lines: Curves, found: Curves, data: Any) -> Figure:
    """Both ways of a few pairs as samples in the plane, over the data."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axis = figure.subplots()
    if data is not None:
        x = data.up_to("test", 2_000)
        axis.scatter(*x.numpy().T, s=3, c="#bbbbbb", linewidths=0, label="data")
    for curves, (name, style) in zip((lines, found), WAYS, strict=True):
        for i, way in enumerate(curves.points[:SHOWN]):
            with torch.no_grad():
                x = metric.f(way).cpu().numpy()
            axis.plot(*x.T, style, color=colour(name), linewidth=1.6, label=name if i == 0 else None)
            axis.scatter(*x[[0, -1]].T, s=16, c="white", edgecolors="k", zorder=3)
    axis.set(xlabel="x₁", ylabel="x₂", aspect="equal")
    axis.legend(loc="upper right", fontsize=8)
    return figure


def strips(metric: Metric, lines: Curves, found: Curves) -> Figure:
    """Images along the straight line and along the geodesic of a few pairs, at equal steps of time."""
    num = min(STRIPS, len(lines.points))
    figure = Figure(figsize=(0.62 * IMAGES + 1.4, 1.62 * num), layout="constrained")
    times = torch.linspace(0, lines.points.shape[1] - 1, IMAGES).round().long().to(lines.points.device)
    for i, axis in enumerate(figure.subplots(num, 1, squeeze=False).flat):
        with torch.no_grad():
            x = torch.cat([metric.f(curves.points[i, times]) for curves in (lines, found)])
        grid = grid_of(x, IMAGES)
        axis.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
        height = grid.shape[1]
        names = [
            f"{name}\n{float(curves.length[i]):.3g}" for curves, (name, _) in zip((lines, found), WAYS, strict=True)
        ]
        axis.set(xticks=[], yticks=[height / 4, 3 * height / 4])
        axis.set_yticklabels(names, fontsize=8)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    return figure
