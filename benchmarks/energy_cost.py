"""Measure the cost of sampling over the bare network, and of the terms of improved contrastive divergence, in one run.

It times a 40-step Langevin transition (MALA, at fixed labels) against forty bare forward-backward passes of the same
network on the same images, and an iteration of improved contrastive divergence with L_opt and L_ent against one
without. Rounds alternate between the two sides; a ratio is the median over rounds.

    python benchmarks/energy_cost.py [--rounds 7] [--width 32] [--batch_size 16]
"""

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch

from pt_flows.data import Shapes32
from pt_flows.functional.langevin import langevin
from pt_flows.methods import ImprovedCD
from pt_flows.nets import MultiScaleEnergy, TimeResNetEnergy
from pt_flows.training.players import Energy

NUM_STEPS = 40


def seconds(part: Callable[[], Any]) -> float:
    """Return the duration of one call."""
    start = time.perf_counter()
    part()
    return time.perf_counter() - start


def report(name: str, ours: Callable[[], Any], baseline: Callable[[], Any], rounds: int) -> None:
    """Time both sides in turn; print the median ratio, its range, and medians in milliseconds."""
    ours(), baseline()
    pairs = [(seconds(ours), seconds(baseline)) for _ in range(rounds)]
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
    report(f"{NUM_STEPS} MALA steps / {NUM_STEPS} forward-backward passes", walk, passes, rounds)


def trained(width: int, batch_size: int, **weights: float) -> ImprovedCD:
    """Return a model with a history of samples, as after some training."""
    L.seed_everything(0, verbose=False)
    adam = partial(torch.optim.Adam, lr=1e-4)
    energy = Energy(MultiScaleEnergy(32, 3, width=width), adam)
    module = ImprovedCD(energy, num_langevin_steps=NUM_STEPS, min_history=100, buffer_size=1000, **weights)
    module.buffer.add(torch.rand(1000, 3, 32, 32) * 2 - 1)
    return module


def fit(module: ImprovedCD, data: Shapes32, iterations: int) -> None:
    """Train for some more iterations."""
    L.Trainer(
        max_steps=module.iteration + iterations, accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        max_epochs=-1,
    ).fit(module, datamodule=data)  # fmt: skip


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
    data = Shapes32(batch_size=arguments.batch_size)
    full = trained(arguments.width // 2, arguments.batch_size)
    plain = trained(arguments.width // 2, arguments.batch_size, opt_weight=0.0, entropy_weight=0.0)
    name = "improved CD / the same without L_opt and L_ent"
    report(name, lambda: fit(full, data, 2), lambda: fit(plain, data, 2), arguments.rounds)


if __name__ == "__main__":
    main()
