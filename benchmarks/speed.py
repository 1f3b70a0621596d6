"""Compare iterations per second of the Trainer with a bare PyTorch loop of the same mathematics, in one run.

Both draw the same data, take the same critic and generator steps and keep a weight average. Rounds alternate between
the two, so that a busy machine slows both. The table has the median ratio over rounds; 1.00 means that the framework
costs no time.

    python benchmarks/speed.py [--rounds 5] [--threads 1]
"""

import argparse
import copy
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import lightning as L
import torch
from torch import nn

from pt_flows.data import Shapes32, Toy2D
from pt_flows.data.base import FlowData
from pt_flows.loop.method import Method
from pt_flows.methods import W1FE, WGANGP
from pt_flows.nets import DCGANCritic, DCGANGenerator, MLPCritic, MLPGenerator
from pt_flows.training.players import Critic, Generator

NUM_CRITIC_STEPS, LAM, STEP_SIZE, DECAY = 5, 10.0, 1.0, 0.999
WARM_UP = 20
Precision = Literal["32-true", "bf16-mixed"]
Adam = partial(torch.optim.Adam, lr=1e-4, betas=(0.5, 0.9))


def toy() -> tuple[nn.Module, nn.Module, FlowData]:
    """Return networks of two hidden layers, and batches of 256."""
    return MLPGenerator(width=128, depth=2), MLPCritic(width=128, depth=2), Toy2D("ring8", batch_size=256)


def images() -> tuple[nn.Module, nn.Module, FlowData]:
    """Return a DCGAN pair of 32 channels at 32 pixels, and batches of 16."""
    return DCGANGenerator(width=32), DCGANCritic(width=32), Shapes32(batch_size=16)


class Clock(L.Callback):
    """Tell the time at the start of training, after the warm-up, and at the end.

    Args:
        warm_up: Iterations of the warm-up.
        now: Tells the time, in seconds.
    """

    def __init__(self, warm_up: int, now: Callable[[], float]) -> None:
        self.warm_up, self.now = warm_up, now

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.start = self.now()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.iteration == self.warm_up:
            self.warm = self.now()
        if pl_module.iteration == trainer.max_steps:
            self.end = self.now()


def timed(
    module: Method,
    data: FlowData,
    num: int,
    *callbacks: L.Callback,
    warm_up: int = WARM_UP,
    now: Callable[[], float] = time.perf_counter,
    precision: Precision = "32-true",
) -> Clock:
    """Train for `num` iterations after the warm-up, with a Trainer that does nothing else, and return the times."""
    clock = Clock(warm_up, now)
    runner = L.Trainer(
        max_steps=num + warm_up, max_epochs=-1, accelerator="cpu", devices=1, callbacks=[*callbacks, clock],
        precision=precision,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        limit_val_batches=0, num_sanity_val_steps=0,
    )  # fmt: skip
    runner.fit(module, datamodule=data)
    return clock


def trainer_seconds(module: Method, data: FlowData, num: int) -> float:
    """Return the seconds of `num` iterations of the framework."""
    clock = timed(module, data, num)
    return clock.end - clock.warm


def bare_seconds(G: Any, f: Any, data: FlowData, num: int, persistence: int) -> float:
    """Return the seconds of `num` iterations of a plain loop; persistence 0 is WGAN-GP, K >= 1 is W1-FE."""
    average = copy.deepcopy(G)
    optimizer_G, optimizer_f = Adam(G.parameters()), Adam(f.parameters())
    start = 0.0
    for iteration in range(num + WARM_UP):
        if iteration == WARM_UP:
            start = time.perf_counter()
        batch = data.draw(iteration, NUM_CRITIC_STEPS)
        x_all = batch[0] if len(batch) == 2 else data.on_after_batch_transfer(batch, 0)[0]
        for x in x_all:
            y = G(torch.randn(len(x), *G.latent_shape)).detach()
            a = torch.rand(len(x), *[1] * (x.dim() - 1))
            u = (a * x + (1 - a) * y).requires_grad_(True)
            (gradient,) = torch.autograd.grad(f(u).sum(), u, create_graph=True)
            excess = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt() - 1
            penalty = (excess.clamp(min=0) if persistence else excess).square().mean()
            loss = f(y).mean() - f(x).mean() + LAM * penalty
            optimizer_f.zero_grad()
            loss.backward()
            optimizer_f.step()
        generator_phase(G, f, optimizer_G, len(x_all[0]), persistence)
        with torch.no_grad():
            for mean, new in zip(average.parameters(), G.parameters(), strict=True):
                mean.lerp_(new, 1 - DECAY)
    return time.perf_counter() - start


def generator_phase(G: Any, f: Any, optimizer: torch.optim.Optimizer, num: int, persistence: int) -> None:
    """Take one WGAN step, or K regression steps onto the Euler targets."""
    z = torch.randn(num, *G.latent_shape)
    if not persistence:
        optimizer.zero_grad()
        (-f(G(z)).mean()).backward()
        optimizer.step()
        return
    y = G(z)
    particles = y.detach().requires_grad_(True)
    (v,) = torch.autograd.grad(f(particles).sum(), particles)
    target = (particles + STEP_SIZE * v).detach()
    for k in range(persistence):
        loss = ((y if k == 0 else G(z)) - target).square().flatten(1).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


CASES: list[tuple[str, Callable[[], tuple[Any, Any, FlowData]], int, int, float]] = [
    ("toy MLP 2x128, batch 256, WGAN-GP", toy, 0, 100, 0.80),
    ("toy MLP 2x128, batch 256, W1-FE K=5", toy, 5, 100, 0.80),
    ("DCGAN 32 ch, 32 px, batch 16, WGAN-GP", images, 0, 20, 0.97),
    ("DCGAN 32 ch, 32 px, batch 16, W1-FE K=3", images, 3, 20, 0.97),
]


def module_for(G: Any, f: Any, persistence: int) -> Method:
    """Return the framework's method for a case."""
    players = Generator(G, Adam), Critic(f, Adam, steps=NUM_CRITIC_STEPS)
    if persistence:
        return W1FE(*players, step_size=STEP_SIZE, persistence=persistence)
    return WGANGP(*players, penalty_weight=LAM)


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    print(f"torch {torch.__version__}, lightning {L.__version__}, {arguments.threads} thread(s), CPU")
    print(f"{'case':<42} {'bare it/s':>10} {'pt_flows it/s':>14} {'ratio':>7} {'range':>13} {'goal':>6}")
    for name, make, persistence, num, goal in CASES:
        bare, ours = [], []
        for i in range(arguments.rounds):
            order = [(bare, bare_seconds_of), (ours, trainer_seconds_of)]
            for times, run in order if i % 2 else reversed(order):
                times.append(run(make, num, persistence))
        ratios = sorted(b / o for b, o in zip(bare, ours, strict=True))
        bare_rate, our_rate = num / statistics.median(bare), num / statistics.median(ours)
        print(
            f"{name:<42} {bare_rate:>10.2f} {our_rate:>14.2f} {statistics.median(ratios):>7.2f} "
            f"{ratios[0]:>6.2f}-{ratios[-1]:<6.2f} {goal:>6.2f}",
            flush=True,
        )


def bare_seconds_of(make: Callable[[], tuple[Any, Any, FlowData]], num: int, persistence: int) -> float:
    """Time a bare round on fresh networks."""
    torch.manual_seed(0)
    G, f, data = make()
    return bare_seconds(G, f, data, num, persistence)


def trainer_seconds_of(make: Callable[[], tuple[Any, Any, FlowData]], num: int, persistence: int) -> float:
    """Time a round of the framework on fresh networks."""
    torch.manual_seed(0)
    G, f, data = make()
    return trainer_seconds(module_for(G, f, persistence), data, num)


if __name__ == "__main__":
    main()
