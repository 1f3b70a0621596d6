"""Measure the cost of sampling over the bare network, and of the terms of improved contrastive divergence, in one run.

It times
- a 40-step Langevin transition (MALA, at fixed labels) against forty bare forward-backward passes of the same network;
- a transition of DA-EBM on images of 16 pixels (K = 10, a draw among 21 labels) against the same with plain calls;
- an iteration of improved contrastive divergence with L_opt and L_ent against one without;
- DA-EBM on rings against a plain loop of the same steps.
Times are CPU time, of training after a first iteration.
Rounds alternate between the two sides; a ratio is the median over rounds.

    OMP_NUM_THREADS=1 python benchmarks/energy_cost.py [--rounds 7] [--width 32] [--batch_size 16]
"""

import argparse
import copy
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from speed import timed
from torch import Tensor

from pt_flows.callbacks import Performance
from pt_flows.data import Shapes32, Toy2D
from pt_flows.data.base import FlowData
from pt_flows.functional.gibbs import mgms
from pt_flows.functional.langevin import langevin
from pt_flows.loop.method import Method
from pt_flows.methods import DAEBM, ImprovedCD
from pt_flows.nets import MultiScaleEnergy, TimeMLPEnergy, TimeResNetEnergy
from pt_flows.training.players import Energy

NUM_STEPS = 40


def seconds(part: Callable[[], Any]) -> float:
    """Return the CPU time of one call."""
    start = time.process_time()
    part()
    return time.process_time() - start


def report(name: str, ours: Callable[[], float], baseline: Callable[[], float], rounds: int) -> None:
    """Take the seconds of both sides in turn; print the median ratio, its range, and medians in milliseconds."""
    ours()
    baseline()
    pairs = [(ours(), baseline()) for _ in range(rounds)]
    ratios = [a / b for a, b in pairs]
    a, b = (1e3 * statistics.median(side) for side in zip(*pairs, strict=True))
    print(
        f"{name:<52} {statistics.median(ratios):6.3f}  ({min(ratios):.3f} to {max(ratios):.3f}; {a:.0f} / {b:.0f} ms)"
    )


def transition(width: int, batch_size: int, rounds: int) -> None:
    """Time forty Langevin steps against forty passes."""
    torch.manual_seed(0)
    net, rng = TimeResNetEnergy(32, 3, width=width).eval(), torch.Generator().manual_seed(0)
    x, t = torch.randn(batch_size, 3, 32, 32), torch.arange(batch_size) % 51

    def passes() -> None:
        for _ in range(NUM_STEPS):
            points = x.clone().requires_grad_(True)
            torch.autograd.grad(net(points, t).sum(), points)

    walk = lambda: langevin(lambda points: net(points, t), x, 0.01, NUM_STEPS, rng)
    name = f"{NUM_STEPS} MALA steps / {NUM_STEPS} forward-backward passes"
    report(name, lambda: seconds(walk), lambda: seconds(passes), rounds)


def labelled(rounds: int) -> None:
    """Time a transition of DA-EBM on images against the same with plain calls."""
    torch.manual_seed(0)
    net, rng = TimeResNetEnergy(16, 1, width=16, multipliers=(1, 2, 4)).eval(), torch.Generator().manual_seed(0)
    x, t, steps = torch.randn(64, 1, 16, 16), torch.arange(64) % 21, torch.full((21,), 0.01)
    move = lambda energy: mgms(energy, x, t, steps, 10, rng, chunk=256)
    plain = lambda points, labels: net(points, labels)
    report("DA-EBM, 16 pixels / plain calls", lambda: seconds(lambda: move(net)), lambda: seconds(lambda: move(plain)),
           rounds)  # fmt: skip


def trained(width: int, batch_size: int, **weights: float) -> ImprovedCD:
    """Return a model with a history of samples, as after some training."""
    L.seed_everything(0, verbose=False)
    adam = partial(torch.optim.Adam, lr=1e-4)
    energy = Energy(MultiScaleEnergy(32, 3, width=width), adam)
    module = ImprovedCD(energy, num_langevin_steps=NUM_STEPS, min_history=100, buffer_size=1000, **weights)
    module.buffer.add(torch.rand(1000, 3, 32, 32) * 2 - 1)
    return module


def training(module: Method, data: FlowData, iterations: int) -> float:
    """Return the seconds of some iterations after the first block of the data."""
    warm_up = data.iterations_per_block
    clock = timed(module, data, iterations, Performance("fast"), warm_up=warm_up)
    return clock.end - clock.warm


class BareRings:
    """DA-EBM on rings as a script would have it: data, diffusion, K MALA steps, an exact draw of labels, Adam."""

    def __init__(self, module: DAEBM, law: Any, batch_size: int) -> None:
        self.net = copy.deepcopy(module.energy.network)
        self.a, self.b, self.s = module.a, module.b, module.step_sizes.values.clone()
        self.chains, self.labels = module.buffer.points.clone(), module.buffer.labels.clone()
        self.K, self.law, self.batch_size = module.num_langevin_steps, law, batch_size
        self.adam = torch.optim.Adam(self.net.parameters(), lr=1e-3, betas=(0.0, 0.999), fused=True)
        self.rng = torch.Generator().manual_seed(0)

    def iterate(self) -> None:
        n, rng = self.batch_size, self.rng
        t = torch.randint(len(self.a), (n,), generator=rng)
        x = self.a[t][:, None] * self.law.sample(n, rng) + self.b[t][:, None] * torch.randn(n, 2, generator=rng)
        slots = torch.randperm(len(self.chains), generator=rng)[:n]
        y, t_y = self.moved(self.chains[slots], self.labels[slots])
        self.chains[slots], self.labels[slots] = y, t_y
        u = self.net(torch.cat([x, y]), torch.cat([t, t_y]))
        self.adam.zero_grad()
        (u[:n].mean() - u[n:].mean()).backward()
        self.adam.step()

    def moved(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        rng, s, every = self.rng, self.s[t][:, None], torch.arange(len(self.a))
        for p in self.net.parameters():
            p.requires_grad_(False)
        gates = self.net.conditions(every)
        own = [gate[t] for gate in gates]
        u, g = self.slope(x, own)
        for _ in range(self.K):
            z = torch.randn(x.shape, generator=rng)
            proposed = x - 0.5 * s**2 * g + s * z
            v, h = self.slope(proposed, own)
            back = 0.5 * s * (g + h) - z
            ratio = u - v + 0.5 * (z.square().sum(1) - back.square().sum(1))
            accept = torch.rand(len(x), generator=rng).log() < ratio
            x, g = (torch.where(accept[:, None], new, old) for new, old in ((proposed, x), (h, g)))
            u = torch.where(accept, v, u)
        with torch.no_grad():
            places = every.repeat(len(x))
            levels = self.net.at(x.repeat_interleave(len(every), 0), *(gate[places] for gate in gates))
            below = (-levels.view(len(x), -1)).softmax(1).cumsum(1)[:, :-1]
        for p in self.net.parameters():
            p.requires_grad_(True)
        return x, (torch.rand(len(x), 1, generator=rng) >= below).sum(1)

    def slope(self, x: Tensor, gates: list[Tensor]) -> tuple[Tensor, Tensor]:
        points = x.detach().requires_grad_(True)
        u = self.net.at(points, *gates)
        return u.detach(), torch.autograd.grad(u.sum(), points)[0]


def rings(rounds: int, iterations: int = 50) -> None:
    """Time DA-EBM on rings against the bare loop."""
    adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.999))
    data = Toy2D("rings4_wide", batch_size=250)

    def module() -> DAEBM:
        L.seed_everything(0, verbose=False)
        energy = Energy(TimeMLPEnergy(width=128, input_scale=3.0), adam)
        return DAEBM(energy, num_langevin_steps=20, step_size=0.5, data_scale=0.15, buffer_size=2500)

    bare = BareRings(module(), data.law, data.batch_size)

    def loop() -> None:
        for _ in range(iterations):
            bare.iterate()

    report("DA-EBM on rings / bare loop", lambda: training(module(), data, iterations), lambda: seconds(loop), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=16)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, width {arguments.width}, batch "
          f"{arguments.batch_size}, 32x32x3; median ratio over {arguments.rounds} rounds (range; times)")  # fmt: skip
    transition(arguments.width, arguments.batch_size, arguments.rounds)
    labelled(arguments.rounds)
    data = Shapes32(batch_size=arguments.batch_size)
    full = partial(trained, arguments.width // 2, arguments.batch_size)
    plain = partial(full, opt_weight=0.0, entropy_weight=0.0)
    name = "improved CD / the same without L_opt and L_ent"
    report(name, lambda: training(full(), data, 2), lambda: training(plain(), data, 2), arguments.rounds)
    rings(arguments.rounds)


if __name__ == "__main__":
    main()
