"""A one-layer game as the reference problem of `one_layer.py`: its exact form, real runs, and its modified equation.

min over A, max over V of <V, Σ* - A Aᵀ> - ½ ‖V‖²: the Wasserstein game of quadratic moments, with φ the identity, a
quadratic critic V, and pairs (x, z) as the data. Its best critic is V = Σ* - A Aᵀ, and at rest A Aᵀ = Σ* and V = 0.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.func import vmap

from pt_flows import FluctuationDissipation
from pt_flows.functional.integrators import RK4, Field, rk_step
from pt_flows.functional.modified_flow import Game, Order, Scheme, euler_maruyama, minibatch

SCHEMES: tuple[Scheme, ...] = ("simultaneous", "alternating")
RATE, BATCH, COPIES, TIME = 0.1, 64, 500, 8.0
TRUTH = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
START = torch.tensor([[0.2, 1.2, -1.2, 0.2, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
"""A, row by row, and V."""


def exact_value(z: Tensor) -> Tensor:
    """Φ (1,) at one z = (A, V)."""
    A, V = z[:4].view(2, 2), z[4:].view(2, 2)
    return (V * (TRUTH @ TRUTH.T - A @ A.T)).sum().reshape(1) - 0.5 * V.square().sum()


def sampled(num: int = 32) -> Game:
    """The game of pairs (x, z) whose latents have the second moment I, so that its mean is the exact value."""
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(num, 2, generator=rng, dtype=torch.float64)
    z = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / num)).T
    outer = lambda y: (y[:, :, None] * y[:, None]).flatten(1)
    latents, real = outer(z), outer(z[torch.randperm(num, generator=rng)] @ TRUTH.T)

    def values(p: Tensor) -> Tensor:
        A, V = p[:4].view(2, 2), p[4:]
        return real @ V - latents @ (A.T @ V.view(2, 2) @ A).flatten() - 0.5 * V.square().sum()

    return Game(values, 4)


EXACT, PAIRS = Game(exact_value, 4), sampled()


def distance(z: Tensor) -> Tensor:
    """Squared distance (C,) from rest, ‖Σ* - A Aᵀ‖² + ‖V‖², of rows (C, 8)."""
    A = z[:, :4].view(-1, 2, 2)
    return (TRUTH @ TRUTH.T - A @ A.mT).square().sum((1, 2)) + z[:, 4:].square().sum(1)


class Run:
    """Copies of one run by torch's SGD, which a monitor watches as one.

    Args:
        scheme: Order of the updates.
        rate: η.
        copies: C.
    """

    def __init__(self, scheme: Scheme, rate: float, copies: int = COPIES) -> None:
        self.scheme, self.rng = scheme, torch.Generator().manual_seed(1)
        self.players = [torch.nn.Parameter(part.clone()) for part in START.expand(copies, 8).split(4, 1)]
        A, V = self.players
        self.optimizers = {"generator": torch.optim.SGD([A], rate), "critic": torch.optim.SGD([V], rate)}
        self.monitor = FluctuationDissipation(window=100, drop=1.0)
        self.monitor.watch(self.optimizers)

    @property
    def z(self) -> Tensor:
        """Parameters (C, 8)."""
        return torch.cat([p.detach() for p in self.players], 1)

    def aim(self) -> None:
        """Set the gradients of a fresh minibatch; V descends -Φ."""
        slope = vmap(PAIRS.field)(self.z, minibatch(len(self.z), 32, BATCH, self.z, self.rng))
        for p, part in zip(self.players, slope.split(4, 1), strict=True):
            p.grad = -part

    def step(self) -> None:
        """Move both players, the critic first."""
        self.aim()
        self.optimizers["critic"].step()
        if self.scheme == "alternating":
            self.aim()
        self.optimizers["generator"].step()
        self.monitor.advance()


def trained(scheme: Scheme, rate: float) -> Iterator[Tensor]:
    """Yield the parameters of a run up to `TIME`."""
    run = Run(scheme, rate)
    for _ in range(round(TIME / rate)):
        yield run.z
        run.step()
    yield run.z


def simulated(scheme: Scheme, rate: float, order: Order) -> Iterator[Tensor]:
    """Yield the state of the modified equation: every step is half of the noise, the drift, and half of the noise."""
    rng, z = torch.Generator().manual_seed(2), START.expand(COPIES, 8)
    drift, covariance = EXACT.drift(rate, scheme, order), partial(PAIRS.covariance, scheme=scheme)
    still: Field = lambda t, z: torch.zeros_like(z)
    shake = lambda z: euler_maruyama(still, covariance, (rate / BATCH) ** 0.5, z, rate / 2, 1, rng)
    for _ in range(round(TIME / rate)):
        yield z
        z = shake(rk_step(drift, 0.0, shake(z), rate, RK4))
    yield z
