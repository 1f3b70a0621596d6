r"""Drawings of few parameters: a Fourier series as a curve, a box, and a polygon of four points; edges are antialiased.

    curve    f(t) = a₀ + Σ_{k=1}^{5} a_k cos 2πkt + b_k sin 2πkt,   t in [0, 1)
    box      centre (x, y), width w and height h, inside the frame
    polygon  the simple polygon through four points, in the order of their angles around their mean

Srivastava et al. 2019, SimVAE, arXiv:1911.08051, name these simulators and their inputs, and draw with matplotlib.
Sizes, ranges, filled shapes and the order of the four points are ours.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.data.simulators.base import Simulator, uniform

HARMONICS = 5
AMPLITUDE = 4.0
"""Value of the curve at the upper edge of the frame; the lower edge is its negative."""
STROKE = 1.5
"""Half the width of a curve in pixels at 64 pixels."""
SMALLEST, LARGEST = 0.125, 0.625
"""Least and greatest width of a box in units of the frame."""


def pixel_centres(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates x (1, 1, size) and y (1, size, 1) of the centres of pixels in pixels, y downwards."""
    ticks = torch.arange(size, dtype=like.dtype) + 0.5
    return ticks[None, None, :], ticks[None, :, None]


def painted(distance: Tensor) -> Tensor:
    """White shapes on black, images (n, 1, size, size) in [-1, 1], smooth over one pixel.

    Args:
        distance: Signed distance of pixels to the edge in pixels (n, size, size), negative inside.
    """
    return (2 * (0.5 - distance).clamp(0, 1) - 1)[:, None]


class FourierPlot(Simulator):
    """The curve of a Fourier series with five harmonics, (1, image_size, image_size).

    All eleven coefficients are independent and uniform on [-1, 1].

    Args:
        image_size: Height and width in pixels.
    """

    names = ("a0", *(f"a{k}" for k in range(1, 1 + HARMONICS)), *(f"b{k}" for k in range(1, 1 + HARMONICS)))

    def __init__(self, image_size: Count = 64) -> None:
        self.image_size = image_size

    def parameters(self, u: Tensor) -> Tensor:
        """Uniform coefficients (n, 11)."""
        return uniform(u, -1.0, 1.0)

    def simulate(self, parameters: Tensor) -> Tensor:
        """The curve; the distance of a pixel is the vertical one, divided by the length of (1, slope)."""
        x, y = pixel_centres(self.image_size, parameters)
        a0, a, b = parameters.split([1, HARMONICS, HARMONICS], 1)
        k = torch.arange(1, HARMONICS + 1, dtype=parameters.dtype)[:, None]
        angle = 2 * math.pi * k * x[0, 0] / self.image_size
        unit = self.image_size / (2 * AMPLITUDE)
        height = (a0 + a @ angle.cos() + b @ angle.sin()) * unit
        slope = ((b * k.T) @ angle.cos() - (a * k.T) @ angle.sin()) * 2 * math.pi / self.image_size * unit
        vertical = (self.image_size / 2 - height[:, None] - y).abs()
        distance = vertical / (1 + slope[:, None].square()).sqrt()
        return painted(distance - STROKE * self.image_size / 64)


class BoxPlot(Simulator):
    """A filled box, (1, image_size, image_size), with the parameters x, y, w and h in units of the frame.

    Width and height are uniform, and the centre is uniform where the box lies inside the frame. So the parameters
    depend on each other.

    Args:
        image_size: Height and width in pixels.
    """

    names = ("x", "y", "w", "h")

    def __init__(self, image_size: Count = 64) -> None:
        self.image_size = image_size

    def parameters(self, u: Tensor) -> Tensor:
        """Centre and size of boxes inside the frame (n, 4)."""
        size = uniform(u[:, 2:], SMALLEST, LARGEST)
        return torch.cat([size / 2 + u[:, :2] * (1 - size), size], 1)

    def simulate(self, parameters: Tensor) -> Tensor:
        """The box."""
        x, y = pixel_centres(self.image_size, parameters)
        cx, cy, w, h = (self.image_size * parameters).T[..., None, None]
        return painted(torch.maximum((x - cx).abs() - w / 2, (y - cy).abs() - h / 2))


class FourPointPolygon(Simulator):
    """The filled polygon of four points, (1, image_size, image_size), in units of the frame.

    The points are independent and uniform. Every order of them gives the same image, so that the coordinates are not
    identifiable.

    Args:
        image_size: Height and width in pixels.
    """

    names = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")
    identifiable: ClassVar[bool] = False

    def __init__(self, image_size: Count = 64) -> None:
        self.image_size = image_size

    def parameters(self, u: Tensor) -> Tensor:
        """Uniform points (n, 8)."""
        return uniform(u, 0.1, 0.9)

    def simulate(self, parameters: Tensor) -> Tensor:
        """The polygon: distances to the nearest edge, with the sign of the parity of edges to the right of a pixel."""
        px, py = pixel_centres(self.image_size, parameters)
        corners = self.image_size * ordered(parameters)
        distance = torch.full((len(parameters), self.image_size, self.image_size), torch.inf, dtype=parameters.dtype)
        inside = torch.zeros_like(distance, dtype=torch.bool)
        for i in range(4):
            (ax, ay), (bx, by) = corners[:, i].T[..., None, None], corners[:, (i + 1) % 4].T[..., None, None]
            ex, ey, dx, dy = bx - ax, by - ay, px - ax, py - ay
            along = ((dx * ex + dy * ey) / (ex.square() + ey.square()).clamp_min(1e-12)).clamp(0, 1)
            distance = torch.minimum(distance, torch.hypot(dx - along * ex, dy - along * ey))
            crosses = (ay > py) != (by > py)
            inside ^= crosses & (dx < dy * ex / torch.where(crosses, ey, 1.0))
        return painted(torch.where(inside, -distance, distance))

    def invariants(self, parameters: Tensor) -> dict[str, Tensor]:
        """Mean of the points and area of the polygon, (n,), in units of the frame."""
        corners = ordered(parameters)
        x, y = corners.unbind(2)
        area = (x * y.roll(-1, 1) - y * x.roll(-1, 1)).sum(1).abs() / 2
        return {"mean_x": x.mean(1), "mean_y": y.mean(1), "area": area}

    def equivalent(self, parameters: Tensor, rng: torch.Generator) -> Tensor:
        """The points in a random order."""
        order = torch.rand(len(parameters), 4, generator=rng).argsort(1).to(parameters.device)
        return parameters.view(-1, 4, 2).gather(1, order[..., None].expand(-1, -1, 2)).flatten(1)


def ordered(parameters: Tensor) -> Tensor:
    """Four points (n, 8) in the order of their angles around their mean, (n, 4, 2)."""
    points = parameters.view(-1, 4, 2)
    x, y = (points - points.mean(1, keepdim=True)).unbind(2)
    return points.gather(1, torch.atan2(y, x).argsort(1)[..., None].expand(-1, -1, 2))
