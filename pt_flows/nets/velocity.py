"""Flows: generators that move latents along a velocity v(x, t) from t = 0 to 1, for toys and images.

`flow(x, t)` is the velocity, and `flow(z)` the end of the path from z, by equal Runge-Kutta steps.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pt_flows.bounds import Count
from pt_flows.contracts import FlowNet
from pt_flows.functional.integrators import Integrator, flow_map
from pt_flows.nets.init import conv, kaiming_
from pt_flows.nets.mlp import mlp
from pt_flows.nets.sizes import filled, stages
from pt_flows.nets.time_energy import TimeBlock, TimeEmbedding


class Flow(FlowNet, ABC):
    """Base of the flows of the package: a subclass defines `velocity`, `num_steps` and `integrator`."""

    num_steps: int
    integrator: Integrator

    @abstractmethod
    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity (B, *event_shape) at points (B, *event_shape) and times (B,)."""

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """The velocity at times (B,), or, without times, the ends of the paths from latents x."""
        return flow_map(self, x, self.num_steps, self.integrator) if t is None else self.velocity(x, t)


class MLPFlow(Flow):
    """Flow whose velocity is a fully connected network of x and t with ReLU layers, for samples of any shape.

    Args:
        event_shape: Shape of one sample, and of one latent.
        width: Units of a hidden layer.
        depth: Number of hidden layers.
        num_steps: Steps from a latent to a sample.
        integrator: Method of a step: "euler", "heun", "rk4" or "bogacki_shampine", with 1, 2, 4 or 3 velocities.
    """

    def __init__(
        self,
        event_shape: Sequence[Count] = (2,),
        width: Count = 128,
        depth: Count = 3,
        num_steps: Count = 20,
        integrator: Integrator = "heun",
    ) -> None:
        super().__init__()
        filled(self, event_shape=event_shape)
        self.event_shape = self.latent_shape = tuple(event_shape)
        self.num_steps, self.integrator = num_steps, integrator
        dim = math.prod(self.event_shape)
        self.net = mlp(dim + 1, dim, width, depth)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity (B, *event_shape) at points (B, *event_shape) and times (B,)."""
        return self.net(torch.cat([x.flatten(1), t[:, None]], 1)).unflatten(1, self.event_shape)


class ConvFlow(Flow):
    """Flow of images of 8, 16, 28, 32, ... pixels, whose velocity is a small U-Net of the blocks of DA-EBM's energy.

    Every level has one block on the way down and one on the way up, which also takes the features of that size from the
    way down. There is no normalisation and no attention. The velocity starts at zero, and the flow as the identity.

    Args:
        image_size: Height and width: 4, 5, 6 or 7 times a power of two, from 8 on (28 -> 14 -> 7).
        num_channels: Colour channels, any number.
        width: Channels at full size. Each level below has twice as many, up to four times `width`.
        num_steps: Steps from a latent to a sample.
        integrator: Method of a step: "euler", "heun", "rk4" or "bogacki_shampine", with 1, 2, 4 or 3 velocities.
    """

    def __init__(
        self,
        image_size: int = 32,
        num_channels: Count = 3,
        width: Count = 64,
        num_steps: Count = 20,
        integrator: Integrator = "heun",
    ) -> None:
        super().__init__()
        self.event_shape = self.latent_shape = (num_channels, image_size, image_size)
        self.num_steps, self.integrator = num_steps, integrator
        channels, depth = [width * min(2**i, 4) for i in range(stages(self, image_size)[1] + 1)], 4 * width
        pairs = list(zip(channels, channels[1:], strict=False))
        self.embed = TimeEmbedding(128, depth, nn.SiLU())
        self.first = conv(num_channels, width, 3)
        self.down = nn.ModuleList(TimeBlock(a, b, depth) for a, b in pairs)
        self.middle = TimeBlock(channels[-1], channels[-1], depth)
        self.up = nn.ModuleList(TimeBlock(b + a, a, depth) for a, b in reversed(pairs))
        self.last = conv(width, num_channels, 3)
        kaiming_(self)
        nn.init.zeros_(self.last.weight)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity (B, C, H, W) at images (B, C, H, W) and times (B,)."""
        e = self.embed(1000 * t)  # the embedding is made for labels up to about a thousand
        h, skips = self.first(x), []
        for block in self.down:
            skips.append(h)
            h = F.avg_pool2d(block(h, e), 2)
        h = self.middle(h, e)
        for block in self.up:
            h = block(torch.cat([F.interpolate(h, scale_factor=2.0), skips.pop()], 1), e)
        return self.last(F.silu(h))
