"""A small drawn image set, so that every image configuration can be tried without a download."""

import math
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.contracts import Split
from pt_flows.data.images import ArrayImages
from pt_flows.training.noise import generator_at

NUM_IMAGES: dict[Split, int] = {"train": 10_000, "test": 2_000}
SIZE = 32
Style = Literal["paint", "sketch"]

# signed distance of a point (u, v) from each shape of radius about one, negative inside
SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disc": lambda u, v: torch.hypot(u, v) - 1,
    "ring": lambda u, v: (torch.hypot(u, v) - 0.75).abs() - 0.25,
    "square": lambda u, v: torch.maximum(u.abs(), v.abs()) - 0.85,
    "frame": lambda u, v: (torch.maximum(u.abs(), v.abs()) - 0.7).abs() - 0.2,
    "triangle": lambda u, v: torch.maximum(0.866 * u.abs() + 0.5 * v, -v) - 0.55,
    "plus": lambda u, v: torch.minimum(
        torch.maximum(u.abs() - 0.3, v.abs() - 1), torch.maximum(u.abs() - 1, v.abs() - 0.3)
    ),
    "bar": lambda u, v: torch.maximum(u.abs() - 1, v.abs() - 0.35),
    "crescent": lambda u, v: torch.maximum(torch.hypot(u, v) - 1, 0.8 - torch.hypot(u - 0.5, v)),
    "hexagon": lambda u, v: torch.maximum(0.866 * u.abs() + 0.5 * v.abs(), v.abs()) - 0.85,
    "star": lambda u, v: torch.hypot(u, v) - 0.7 - 0.3 * (5 * torch.atan2(u, v)).cos(),
}


def draw_shapes(num: int, rng: torch.Generator, style: Style = "paint") -> tuple[Tensor, Tensor]:
    """Random shapes on shaded grounds: images uint8 (num, 3, 32, 32) and labels int64 (num,).

    Kind, place, size, rotation and colour of the shape are random, and so are both colours of the shaded ground. Edges
    are smooth over one pixel. A sketch is the same shape in dark outline on paper.
    """
    label = torch.randint(len(SHAPES), (num,), generator=rng)
    unit = lambda *shape: torch.rand(num, *shape, generator=rng)
    centre, radius, angle = 0.35 * (2 * unit(2) - 1), 0.35 + 0.25 * unit(1), 2 * math.pi * unit(1)
    colour, ground, slope = unit(3), unit(2, 3), 2 * math.pi * unit(1)
    ticks = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    y, x = (grid.reshape(1, -1) for grid in torch.meshgrid(ticks, ticks, indexing="ij"))
    dx, dy = x - centre[:, :1], y - centre[:, 1:]
    u = (angle.cos() * dx + angle.sin() * dy) / radius
    v = (angle.cos() * dy - angle.sin() * dx) / radius
    distance = torch.empty(num, SIZE * SIZE)
    for k, shape in enumerate(SHAPES.values()):
        distance[label == k] = shape(u[label == k], v[label == k])
    pixels = distance * radius * SIZE / 2
    if style == "sketch":
        image = (0.95 - 0.85 * (1.5 - pixels.abs()).clamp(0, 1))[:, None].expand(-1, 3, -1)
        return (255 * image).round().to(torch.uint8).reshape(num, 3, SIZE, SIZE), label
    inside = (0.5 - pixels).clamp(0, 1)[:, None]
    shade = (0.5 + 0.35 * (slope.cos() * x + slope.sin() * y)).clamp(0, 1)[:, None]
    back = shade * ground[:, 0, :, None] + (1 - shade) * ground[:, 1, :, None]
    image = inside * colour[:, :, None] + (1 - inside) * back
    return (255 * image).round().to(torch.uint8).view(num, 3, SIZE, SIZE), label


class Shapes32(ArrayImages):
    """Ten kinds of drawn shapes, 32x32 RGB, 10,000 for training and 2,000 for testing; the same on every machine.

    Args:
        batch_size: Images of one minibatch over all ranks.
        flip: Whether to mirror half of the training images left to right.
        iterations_per_block: Iterations that one Lightning step runs.
        style: "paint", filled on a coloured ground, or "sketch", in outline on paper: two domains to move between.
    """

    event_shape = (3, SIZE, SIZE)
    num_classes = 10

    def __init__(
        self, batch_size: Count = 64, flip: bool = True, iterations_per_block: Count = 1, style: Style = "paint"
    ) -> None:
        super().__init__(batch_size, flip, iterations_per_block)
        self.style: Style = style

    def load(self, split: Split) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, 32, 32) and labels (N,)."""
        return drawn(split, self.style)


@cache
def drawn(split: Split, style: Style) -> tuple[Tensor, Tensor]:
    """The set's images and labels, drawn once per process. Do not write to them. No shape is in both styles."""
    stream = ("shapes32", split) if style == "paint" else ("shapes32", split, style)
    return draw_shapes(NUM_IMAGES[split], generator_at("cpu", *stream), style)
