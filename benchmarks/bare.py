"""Plain loops of the methods of `speed.py`, as a careful user of PyTorch would write them.

They have the mathematics of the recipes, one fused kernel for Adam, samples without a graph, and an average of the
weights. Nothing is logged, checked, counted or saved.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.functional import softplus
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pt_flows.data.base import FlowData

Iteration = Callable[[int], None]
"""One iteration of training, given its number."""
DECAY = 0.999
lists: Any = torch
"""Operations on lists of tensors, for which torch has no types."""


class Average:
    """The average of a network's weights."""

    def __init__(self, network: nn.Module) -> None:
        self.latest: list[Tensor] = list(network.parameters())
        self.mean = [p.detach().clone() for p in self.latest]
        self.fold = get_ema_multi_avg_fn(DECAY)

    def update(self) -> None:
        self.fold(self.mean, self.latest, None)


class Player:
    """Networks and their optimizer."""

    def __init__(self, lr: float, *networks: nn.Module) -> None:
        self.parameters = [p for net in networks for p in net.parameters()]
        self.adam = torch.optim.Adam(self.parameters, lr, betas=(0.5, 0.9), fused=True)

    def step(self, loss: Tensor) -> None:
        for parameter, gradient in zip(self.parameters, grad(loss, self.parameters), strict=True):
            parameter.grad = gradient
        self.adam.step()


def minibatches(data: FlowData, iteration: int, num: int) -> Tensor:
    """Data of an iteration (num, B, *event)."""
    batch = data.draw(iteration, num)
    return batch[0] if len(batch) == 2 else data.on_after_batch_transfer(batch, 0)[0]


def latents(G: Any, num: int) -> Tensor:
    return getattr(G, "latent_std", 1.0) * torch.randn(num, *G.latent_shape)


def penalised(f: Any, x: Tensor, y: Tensor, one_sided: bool) -> Tensor:
    """The critic's loss of WGAN-GP, or with the one-sided penalty of W1-FE."""
    a = torch.rand(len(x), *[1] * (x.dim() - 1))
    u = (a * x + (1 - a) * y).requires_grad_(True)
    (gradient,) = grad(f(u).sum(), u, create_graph=True)
    excess = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt() - 1
    penalty = (excess.clamp(min=0) if one_sided else excess).square().mean()
    return f(y).mean() - f(x).mean() + 10.0 * penalty


def dual(f: Any, e: Any, x: Tensor, y: Tensor, weight: float = 200.0) -> Tensor:
    """The loss of W2-FE's potentials φ = f and ψ = -f + e: all pairs, and points between pairs."""
    psi = lambda points: e(points) - f(points)
    f_x, psi_y = f(x), psi(y)
    cost = 0.5 * torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    pairs = (f_x[:, None] + psi_y[None] - cost).clamp(min=0).square().mean()
    a, b = (torch.rand(len(x), *[1] * (x.dim() - 1)) for _ in range(2))
    u, v = a * x + (1 - a) * y, b * y + (1 - b) * x
    between = (f(u) + psi(v) - 0.5 * (u - v).square().flatten(1).sum(1)).clamp(min=0).square().mean()
    return weight * (pairs + between) - f_x.mean() - psi_y.mean()


def adversarial(
    data: FlowData, G: Any, f: Any, e: Any = None, *, critic_steps: int, persistence: int, step_size: float, lr: float
) -> Iteration:
    """W1-FE; with persistence 0 WGAN-GP; with a network e W2-FE."""
    generator, average = Player(lr, G), Average(G)
    critic = Player(lr, f) if e is None else Player(lr, f, e)
    rises = f if e is None else lambda y: f(y) - e(y)

    def iterate(iteration: int) -> None:
        x_all = minibatches(data, iteration, critic_steps)
        for x in x_all:
            with torch.no_grad():
                y = G(latents(G, len(x)))
            critic.step(penalised(f, x, y, persistence > 0) if e is None else dual(f, e, x, y))
        z = latents(G, len(x_all[0]))
        if persistence == 0:
            generator.step(-f(G(z)).mean())
        else:
            y = G(z)
            particles = y.detach().requires_grad_(True)
            (v,) = grad(rises(particles).sum(), particles)
            target = (particles + step_size * v).detach()
            for k in range(persistence):
                generator.step(((y if k == 0 else G(z)) - target).square().flatten(1).sum(1).mean())
        average.update()

    return iterate


TABLEAUS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "euler": ((), (1.0,)), "heun": ((1.0,), (0.5, 0.5)), "rk4": ((0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}  # fmt: skip
"""Distances, in steps, of each stage after the first along the one before, and the weights of all stages."""


@torch.no_grad()
def moved(parameters: list[Tensor], start: list[Tensor], slope: Sequence[Tensor], h: float) -> None:
    """Set parameters to start + h slope."""
    lists._foreach_copy_(parameters, lists._foreach_add(start, slope, alpha=h))


def game(data: FlowData, G: Any, D: Any, *, integrator: str, h: float, lam: float) -> Iteration:
    """ODE-GAN with fresh minibatches in every stage and the regulariser in the first."""
    along, weights = TABLEAUS[integrator]
    theta, phi = list(D.parameters()), list(G.parameters())
    both, num, average = [*theta, *phi], len(theta), Average(G)

    def slope(x: Tensor, regularised: bool) -> tuple[list[Tensor], list[Tensor]]:
        """The field of both players, and the gradient of the regulariser."""
        fake, real = D(G(latents(G, len(x)))), D(x)
        g_G = grad(softplus(-fake).mean(), phi, retain_graph=True, create_graph=regularised)
        g_D = grad(softplus(-real).mean() + softplus(fake).mean(), theta, retain_graph=regularised)
        r = list(grad(g_G, theta, [2 * g.detach() for g in g_G])) if regularised else []
        return [-g.detach() for g in (*g_D, *g_G)], r

    def iterate(iteration: int) -> None:
        xs = minibatches(data, iteration, len(weights))
        start = [p.detach().clone() for p in both]
        k, r = slope(xs[0], True)
        total = lists._foreach_mul(k, weights[0])
        for x, a, b in zip(xs[1:], along, weights[1:], strict=True):
            moved(both, start, k, a * h)
            k, _ = slope(x, False)
            lists._foreach_add_(total, k, alpha=b)
        lists._foreach_add_(total[:num], r, alpha=-lam)
        moved(both, start, total, h)
        average.update()

    return iterate
