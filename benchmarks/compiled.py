"""`--perf compile` and bfloat16 against `--perf fast` in float32: CPU time of an iteration, and cost of compilation.

    OMP_NUM_THREADS=1 python benchmarks/compiled.py [--cases W1-FE,RK4] [--iterations 300] [--rounds 3]

Every case is trained in all settings by turns. Times are CPU time of the process after 60 iterations, when all is
compiled; images take a tenth of all iterations. Ratios are medians over rounds. The cost of compilation is the CPU time
of the first iterations in the first round, with the compiler, and is smaller where TorchInductor finds its cache.
bfloat16 gains where the processor has instructions for it.
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
from speed import Precision, images, module_for, timed

from pt_flows.callbacks import Performance
from pt_flows.callbacks.performance import Mode
from pt_flows.data import Toy2D
from pt_flows.data.base import FlowData
from pt_flows.loop.method import Method
from pt_flows.methods import ODEGAN, W1FE, WGANGP
from pt_flows.nets import MLPCritic, MLPGenerator, ResidualMLPGenerator
from pt_flows.training.players import Critic, Generator

WARM_UP = 60  # the first row of the log, after 50 iterations, compiles once more for toys
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


def toy(batch_size: int) -> FlowData:
    return Toy2D("ring8", batch_size=batch_size, iterations_per_block=10)


def of_images(persistence: int) -> Method:
    """W1-FE, or with persistence 0 WGAN-GP, with a DCGAN pair of 32 channels and images of CIFAR-10's size."""
    G, f, _ = images()
    return module_for(G, f, persistence)


CASES: dict[str, tuple[Callable[[], Method], Callable[[], FlowData], int]] = {
    "W1-FE, batch 64": (flow, partial(toy, 64), 1),
    "W1-FE, batch 512": (flow, partial(toy, 512), 1),
    "WGAN-GP, batch 64": (wgan, partial(toy, 64), 1),
    "WGAN-GP, batch 512": (wgan, partial(toy, 512), 1),
    "ODE-GAN RK4, batch 512": (partial(game, "rk4"), partial(toy, 512), 1),
    "ODE-GAN Heun, batch 512": (partial(game, "heun"), partial(toy, 512), 1),
    "ODE-GAN Euler, batch 512": (partial(game, "euler"), partial(toy, 512), 1),
    "W1-FE, 32 pixels, batch 16": (partial(of_images, 3), lambda: images()[2], 10),
    "WGAN-GP, 32 pixels, batch 16": (partial(of_images, 0), lambda: images()[2], 10),
}
"""Methods and data by name, and by how much shorter their runs are."""

SETTINGS: dict[str, tuple[Mode, Precision]] = {
    "fast": ("fast", "32-true"),
    "compile": ("compile", "32-true"),
    "fast, bf16": ("fast", "bf16-mixed"),
    "compile, bf16": ("compile", "bf16-mixed"),
}


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def cell(times: dict[str, list[float]], name: str) -> str:
    """Return the milliseconds of a setting, and its ratio over `fast` with its range."""
    ratios = [a / b for a, b in zip(times["fast"], times[name], strict=True)]
    ratio = f" ({statistics.median(ratios):.2f}, {min(ratios):.2f}-{max(ratios):.2f})" if name != "fast" else ""
    return f"{statistics.median(times[name]):.1f}{ratio}"


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
    print("CPU time of an iteration in ms (ratio over `fast`, its range)\n")
    print(f"| case | {' | '.join(SETTINGS)} | compilation, s |")
    print(f"| --- |{' ---: |' * (len(SETTINGS) + 1)}")
    for name, (make, data, part) in CASES.items():
        if not any(fragment in name for fragment in options.cases.split(",")):
            continue
        num, warm_up = options.iterations // part, WARM_UP // part
        times: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
        compilation = 0.0
        for i in range(options.rounds):
            for setting, (mode, precision) in SETTINGS.items():
                L.seed_everything(0, verbose=False)
                clock = timed(
                    make(), data(), num, Performance(mode), warm_up=warm_up, now=cpu_seconds, precision=precision
                )
                times[setting].append((clock.end - clock.warm) / num * 1e3)
                if i == 0 and setting == "compile":
                    compilation = clock.warm - clock.start
        print(
            f"| {name} | {' | '.join(cell(times, setting) for setting in SETTINGS)} | {compilation:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
