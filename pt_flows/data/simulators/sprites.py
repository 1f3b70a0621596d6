"""Sprites: a square, an ellipse or a heart with scale, orientation and position on a grid of 737,280 images.

The factors and their numbers of values are those of the dSprites data set (Matthey et al. 2017), which Srivastava et
al. 2019, SimVAE, arXiv:1911.08051, use as a simulator. The images are drawn here from the factors, with antialiased
edges. The sizes of the shapes are ours, and the 40 orientations are different from each other.
"""

import math

import torch
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.data.simulators.base import Simulator, one_of
from pt_flows.data.simulators.drawings import painted, pixel_centres

VALUES = (3, 6, 40, 32, 32)
"""Numbers of values of the factors."""
RADIUS = 0.22
"""Distance of the farthest point of a shape of scale one from its centre, in units of the frame."""


def square(x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to a square inside the unit circle, exact on its sides."""
    return torch.maximum(x.abs(), y.abs()) - math.sqrt(0.5)


def ellipse(x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to an ellipse with the half axes 1 and 1/2, exact to first order near its edge."""
    level = torch.hypot(x, 2 * y)
    return level * (level - 1) / torch.hypot(x, 4 * y).clamp_min(1e-6)


def heart(x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to a heart inside the unit circle: a square on its corner, two half discs on its upper sides."""
    side = 1.0
    y = -y + 0.2  # downwards, and around the middle of the heart
    u, v = (x + y) * math.sqrt(0.5), (y - x) * math.sqrt(0.5)
    body = torch.maximum(u.abs(), v.abs()) - side / 2
    lobes = torch.minimum(torch.hypot(u - side / 2, v), torch.hypot(u, v - side / 2)) - side / 2
    return torch.minimum(body, lobes)


SHAPES = (square, ellipse, heart)


class Sprites(Simulator):
    """One of three shapes, (1, image_size, image_size), in one of 6 scales, 40 orientations and 32x32 positions.

    The parameters are shape 0 to 2, scale 0.5 to 1, orientation in radians, and x and y in [0, 1]. They are independent
    and uniform on their values. An orientation is determined up to the symmetry of the shape: a quarter turn of the
    square, half a turn of the ellipse.

    Args:
        image_size: Height and width in pixels.
    """

    names = ("shape", "scale", "orientation", "x", "y")

    def __init__(self, image_size: Count = 64) -> None:
        self.image_size = image_size

    def parameters(self, u: Tensor) -> Tensor:
        """Values of the factors (n, 5)."""
        shape, scale, orientation, x, y = (one_of(part, num) for part, num in zip(u.T, VALUES, strict=True))
        scale, orientation = 0.5 + scale / (2 * (VALUES[1] - 1)), orientation * (2 * math.pi / VALUES[2])
        return torch.stack([shape, scale, orientation, x / (VALUES[3] - 1), y / (VALUES[4] - 1)], 1)

    def simulate(self, parameters: Tensor) -> Tensor:
        """The shape; all positions keep it inside the frame."""
        shape, scale, orientation, x, y = parameters.T[..., None, None]
        px, py = (ticks / self.image_size for ticks in pixel_centres(self.image_size, parameters))
        dx, dy = px - RADIUS - x * (1 - 2 * RADIUS), py - RADIUS - y * (1 - 2 * RADIUS)
        unit = RADIUS * scale
        u = (orientation.cos() * dx + orientation.sin() * dy) / unit
        v = (orientation.cos() * dy - orientation.sin() * dx) / unit
        distance = torch.zeros_like(u)
        kinds = shape.flatten()
        for kind, distance_to in enumerate(SHAPES):
            chosen = kinds == kind
            distance[chosen] = distance_to(u[chosen], v[chosen])
        return painted(distance * unit * self.image_size)
