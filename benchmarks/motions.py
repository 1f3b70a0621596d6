"""Data of motions for benchmarks/latent_distances.py: pictures of a pendulum, and joint angles of a robot arm.

Chen et al. 2018, arXiv:1711.01204, have 15,000 pictures of 16x16 pixels with noise 0.05, and an arm with six joints
that follows a circle of 0.4 m in 6,284 steps, with noise 0.03. How the pendulum is drawn, and the links and the plane
of the arm, are ours.
"""

import math

import torch
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.contracts import Batch, Split
from pt_flows.data.base import FlowData
from pt_flows.errors import UserError
from pt_flows.training.noise import generator_at, run_seed

SIZE = 16
LINKS = (0.3, 0.3, 0.25, 0.2, 0.15, 0.1)
"""Lengths of the links of the arm in metres; it moves in a plane."""
CENTRE, RADIUS, STEPS = (0.7, 0.2), 0.4, 6284


class Motion(FlowData):
    """A fixed set of observations, a tenth of which is the test split.

    Args:
        batch_size: Samples of one minibatch.
        iterations_per_block: Iterations that one Lightning step runs.
    """

    def __init__(self, batch_size: Count = 100, iterations_per_block: Count = 10) -> None:
        super().__init__(batch_size, iterations_per_block)
        x = self.observed()[torch.randperm(self.num, generator=generator_at("cpu", type(self).__name__, "split"))]
        self.parts: dict[Split, Tensor] = {"test": x[: self.num // 10], "train": x[self.num // 10 :]}
        self.event_shape = tuple(x.shape[1:])

    num: int

    def observed(self) -> Tensor:
        """All observations with their noise (num, *event)."""
        raise NotImplementedError

    def draw(self, iteration: int, num_minibatches: int) -> tuple[Tensor, Tensor]:
        """Minibatches with replacement."""
        rng = generator_at("cpu", run_seed(), "data", iteration)
        rows = torch.randint(len(self.parts["train"]), (num_minibatches, self.batch_size), generator=rng)
        x = self.parts["train"][rows[:, self.share]]
        return x.to(self.device), torch.zeros(x.shape[:2], dtype=torch.int64, device=self.device)

    def reference(self, split: Split, num: int | None = None) -> Tensor:
        """Observations of a split; images as uint8."""
        x = self.parts[split][:num]
        if num is not None and len(x) < num:
            raise UserError(f"{type(self).__name__}: expected at most {len(x)} samples, got {num}. Ask for fewer")
        return (127.5 * (x.clamp(-1, 1) + 1)).round().to(torch.uint8) if x.dim() == 4 else x

    def held_out(self, num: int) -> Batch:
        """The first samples of the test split."""
        x = self.parts["test"][:num]
        return x, torch.zeros(len(x), dtype=torch.int64)


class Pendulum(Motion):
    """Pictures (1, 16, 16) of a pendulum at uniform angles, with noise of 0.05 of the grey scale, which is 2 here."""

    num = 15_000

    def observed(self) -> Tensor:
        """A bright rod from the middle of the frame, soft over one pixel."""
        rng = generator_at("cpu", "pendulum")
        angle = (2 * math.pi * torch.rand(self.num, 1, 1, generator=rng)).float()
        ticks = torch.arange(SIZE) + 0.5 - SIZE / 2
        x, y = ticks[None, None, :], ticks[None, :, None]
        along = (x * angle.sin() + y * angle.cos()).clamp(0, 6)
        distance = torch.hypot(x - along * angle.sin(), y - along * angle.cos())
        clean = 2 * (1.75 - distance).clamp(0, 1) - 1
        return (clean + 0.1 * torch.randn(clean.shape, generator=rng))[:, None]


class RobotArm(Motion):
    """Angles (6,) of the joints of a planar arm whose end follows a circle, in radians, with noise 0.03."""

    num = STEPS

    def observed(self) -> Tensor:
        """Least moves of the joints from step to step, by the pseudo-inverse of the Jacobian."""
        links = torch.tensor(LINKS, dtype=torch.float64)
        q, found = torch.tensor([1.2, -0.6, -0.6, -0.5, -0.4, -0.3], dtype=torch.float64), []
        times = torch.arange(-200, STEPS, dtype=torch.float64).clamp_min(0) * (2 * math.pi / STEPS)
        ends = torch.tensor(CENTRE) + RADIUS * torch.stack([times.cos(), times.sin()], 1)
        for end in ends:  # the first 200 steps lead to the circle
            heading = q.cumsum(0)
            ahead = torch.stack([links * heading.cos(), links * heading.sin()])
            J = torch.stack([-ahead[1].flip(0).cumsum(0).flip(0), ahead[0].flip(0).cumsum(0).flip(0)])
            gap = end - ahead.sum(1)
            gap = gap * min(1.0, 0.05 / max(float(gap.norm()), 1e-12))
            q = q + J.T @ torch.linalg.solve(J @ J.T + 1e-6 * torch.eye(2, dtype=J.dtype), gap)
            found.append(q)
        clean = torch.stack(found[-STEPS:]).float()
        return clean + 0.03 * torch.randn(clean.shape, generator=generator_at("cpu", "arm"))
