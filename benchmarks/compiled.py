"""`--perf compile` against `--perf fast`: CPU time of an iteration, and cost of compilation.

    OMP_NUM_THREADS=1 python benchmarks/compiled.py [--cases W1-FE,RK4] [--iterations 300] [--rounds 3]

Every case is trained in both modes by turns. Times are CPU time of the process after 60 iterations, when all is
compiled; the ratio is the median over rounds. The cost of compilation is the CPU time of the first 60 iterations in the
first round, with that of the compiler, and is smaller where TorchInductor finds its cache.
"""

import argparse
import logging
import os
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from speed import Clock, timed

from pt_flows.callbacks import Performance
from pt_flows.callbacks.performance import Mode
from pt_flows.data import Toy2D
from pt_flows.loop.method import Method
from pt_flows.methods import ODEGAN, W1FE, WGANGP
from pt_flows.nets import MLPCritic, MLPGenerator, ResidualMLPGenerator
from pt_flows.training.players import Critic, Generator

WARM_UP = 60
Adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.9))


def flow() -> Method:
    """W1-FE of configs/toy2d/w1_fe.yaml."""
    G = ResidualMLPGenerator(width=128, depth=3, batch_norm=False, init_std=0.05, latent_std=0.05)
    f = MLPCritic(width=128, depth=3, init_std=0.1)
    return W1FE(Generator(G, Adam), Critic(f, Adam, steps=5), step_size=0.1, persistence=5)


def wgan() -> Method:
    """WGAN-GP with the networks of `flow`."""
    G = ResidualMLPGenerator(width=128, depth=3, batch_norm=False, init_std=0.05, latent_std=0.05)
    f = MLPCritic(width=128, depth=3, init_std=0.1)
    return WGANGP(Generator(G, Adam), Critic(f, Adam, steps=5))


def game(integrator: Any) -> Method:
    """ODE-GAN of configs/toy2d/ode_gan.yaml with a fixed step."""
    G = MLPGenerator(latent_dim=32, width=64, depth=2, init_std="fan_in")
    f = MLPCritic(width=64, depth=2, init_std="fan_in")
    return ODEGAN(G, f, 0.05, integrator, penalty_weight=0.07, stage_batches="fresh")


CASES: dict[str, tuple[Callable[[], Method], int]] = {
    "W1-FE, batch 64": (flow, 64),
    "W1-FE, batch 512": (flow, 512),
    "WGAN-GP, batch 64": (wgan, 64),
    "WGAN-GP, batch 512": (wgan, 512),
    "ODE-GAN RK4, batch 512": (partial(game, "rk4"), 512),
    "ODE-GAN Heun, batch 512": (partial(game, "heun"), 512),
    "ODE-GAN Euler, batch 512": (partial(game, "euler"), 512),
}


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def trained(make: Callable[[], Method], batch_size: int, num: int, mode: Mode) -> Clock:
    """Train from seed 0, and return the times."""
    L.seed_everything(0, verbose=False)
    data = Toy2D("ring8", batch_size=batch_size, iterations_per_block=10)
    return timed(make(), data, num, Performance(mode), warm_up=WARM_UP, now=cpu_seconds)


def main() -> None:
    """Print one row for every case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", default="", help="parts of names, with commas between; all if empty")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print("| case | fast, ms | compile, ms | ratio | range | compilation, s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (make, batch_size) in CASES.items():
        if not any(part in name for part in options.cases.split(",")):
            continue
        times: dict[Mode, list[float]] = {"fast": [], "compile": []}
        compilation = 0.0
        for i in range(options.rounds):
            for mode, found in times.items():
                clock = trained(make, batch_size, options.iterations, mode)
                found.append((clock.end - clock.warm) / options.iterations * 1e3)
                if i == 0 and mode == "compile":
                    compilation = clock.warm - clock.start
        ratios = [a / b for a, b in zip(times["fast"], times["compile"], strict=True)]
        fast, compiled = (statistics.median(times[mode]) for mode in ("fast", "compile"))
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        print(f"| {name} | {fast:.1f} | {compiled:.1f} | {statistics.median(ratios):.2f} | {spread} | "
              f"{compilation:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
