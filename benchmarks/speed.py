"""Time an iteration of the Trainer, with its settings, against a bare PyTorch loop of the same mathematics, in one run.

    OMP_NUM_THREADS=1 python benchmarks/speed.py [--cases W1-FE,RK4] [--iterations 200] [--rounds 3]

All sides draw the same data; the bare loops are in `bare.py`. Sides take turns, so that a busy machine slows all. Times
are CPU time of the process after 60 iterations, when all is compiled; images take a tenth of all iterations.
A rate is the time of the bare loop over the time of a setting in the same round, median over rounds: 1.00 means that
the framework costs no time. The cost of compilation is the CPU time of the first iterations in the first round, and
is smaller where TorchInductor finds its cache. bfloat16 gains where the processor has instructions for it.
"""

import argparse
import logging
import os
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import bare
import lightning as L
import torch

from pt_flows.callbacks import Performance
from pt_flows.callbacks.performance import Mode
from pt_flows.data import Shapes32, Toy2D
from pt_flows.data.base import FlowData
from pt_flows.functional.integrators import Integrator
from pt_flows.loop.method import Method
from pt_flows.methods import ODEGAN, W1FE, W2FE, WGANGP
from pt_flows.nets import DCGANCritic, DCGANGenerator, MLPCritic, MLPGenerator, ResidualMLPGenerator
from pt_flows.training.players import Critic, Generator

WARM_UP = 60  # the first row of the log, after 50 iterations, compiles once more for toys
RATE, STEP_SIZE, CRITIC_STEPS = 1e-3, 0.1, 5
Precision = Literal["32-true", "bf16-mixed"]
Adam = partial(torch.optim.Adam, lr=RATE, betas=(0.5, 0.9))
Networks = Callable[[], list[Any]]
"""Makes new networks: a generator, a critic, and for some methods another one."""


class Clock(L.Callback):
    """Tell the CPU time at the start of training, after the warm-up, and at the end.

    Args:
        warm_up: Iterations of the warm-up.
    """

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.start = cpu_seconds()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.iteration == self.warm_up:
            self.warm = cpu_seconds()
        if pl_module.iteration == trainer.max_steps:
            self.end = cpu_seconds()


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def timed(
    module: Method,
    data: FlowData,
    num: int,
    *callbacks: L.Callback,
    warm_up: int,
    precision: Precision = "32-true",
) -> Clock:
    """Train for `num` iterations after the warm-up, with a Trainer that does nothing else, and return the times."""
    clock = Clock(warm_up)
    runner = L.Trainer(
        max_steps=num + warm_up, max_epochs=-1, accelerator="cpu", devices=1, callbacks=[*callbacks, clock],
        precision=precision,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        limit_val_batches=0, num_sanity_val_steps=0,
    )  # fmt: skip
    runner.fit(module, datamodule=data)
    return clock


def timed_bare(iterate: bare.Iteration, num: int, warm_up: int) -> float:
    """Return the seconds of `num` iterations of a bare loop after the warm-up."""
    for iteration in range(warm_up):
        iterate(iteration)
    start = cpu_seconds()
    for iteration in range(warm_up, warm_up + num):
        iterate(iteration)
    return cpu_seconds() - start


# --------------------------------------------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """A method of the framework and its bare loop.

    Attributes:
        networks: Makes networks.
        method: Makes the method of networks.
        loop: Makes the bare loop of data and networks.
        data: Makes the data.
        part: By how much shorter its runs are.
    """

    networks: Networks
    method: Callable[..., Method]
    loop: Callable[..., bare.Iteration]
    data: Callable[[], FlowData]
    part: int = 1


def toy(batch_size: int) -> FlowData:
    return Toy2D("ring8", batch_size=batch_size, iterations_per_block=10)


def transport() -> list[Any]:
    """The networks of configs/toy2d/w1_fe.yaml."""
    G = ResidualMLPGenerator(width=128, depth=3, batch_norm=False, init_std=0.05, latent_std=0.05)
    return [G, MLPCritic(width=128, depth=3, init_std=0.1)]


def potentials() -> list[Any]:
    """The networks of configs/toy2d/w2_fe.yaml."""
    return [*transport(), MLPCritic(width=128, depth=3, init_std=0.1)]


def players() -> list[Any]:
    """The networks of configs/toy2d/ode_gan.yaml."""
    generator = MLPGenerator(latent_dim=32, width=64, depth=2, init_std="fan_in")
    return [generator, MLPCritic(width=64, depth=2, init_std="fan_in")]


def dcgan() -> list[Any]:
    """A DCGAN pair of 32 channels at 32 pixels."""
    return [DCGANGenerator(width=32), DCGANCritic(width=32)]


def trained(G: Any, f: Any) -> tuple[Generator, Critic]:
    """The players of networks."""
    return Generator(G, Adam, ema_decay=bare.DECAY), Critic(f, Adam, steps=CRITIC_STEPS)


def w1_fe(G: Any, f: Any, persistence: int = 5) -> Method:
    return W1FE(*trained(G, f), step_size=STEP_SIZE, persistence=persistence)


def wgan_gp(G: Any, f: Any) -> Method:
    return WGANGP(*trained(G, f))


def w2_fe(G: Any, f: Any, e: Any) -> Method:
    return W2FE(*trained(G, f), e, equality_weight=0.0, step_size=STEP_SIZE)


def ode_gan(G: Any, D: Any, integrator: Integrator) -> Method:
    return ODEGAN(G, D, 0.05, integrator, penalty_weight=0.07, stage_batches="fresh", ema_decay=bare.DECAY)


plain = partial(bare.adversarial, critic_steps=CRITIC_STEPS, persistence=5, step_size=STEP_SIZE, lr=RATE)
"""The bare loop of these methods."""


def on_toys(batch_size: int) -> dict[str, Case]:
    data = partial(toy, batch_size)
    return {
        f"W1-FE, batch {batch_size}": Case(transport, w1_fe, plain, data),
        f"WGAN-GP, batch {batch_size}": Case(transport, wgan_gp, partial(plain, persistence=0), data),
        f"W2-FE, batch {batch_size}": Case(potentials, w2_fe, plain, data),
    }


def of_game(integrator: Integrator) -> Case:
    loop = partial(bare.game, integrator=integrator, h=0.05, lam=0.07)
    return Case(players, partial(ode_gan, integrator=integrator), loop, partial(toy, 512))


def on_images() -> dict[str, Case]:
    data, flow = partial(Shapes32, batch_size=16), partial(plain, persistence=3)
    return {
        "W1-FE, 32 pixels, batch 16": Case(dcgan, partial(w1_fe, persistence=3), flow, data, 10),
        "WGAN-GP, 32 pixels, batch 16": Case(dcgan, wgan_gp, partial(plain, persistence=0), data, 10),
    }


CASES: dict[str, Case] = {
    **on_toys(64),
    **on_toys(512),
    "ODE-GAN RK4, batch 512": of_game("rk4"),
    "ODE-GAN Heun, batch 512": of_game("heun"),
    "ODE-GAN Euler, batch 512": of_game("euler"),
    **on_images(),
}

SETTINGS: dict[str, tuple[Mode, Precision]] = {
    "fast": ("fast", "32-true"),
    "compile": ("compile", "32-true"),
    "fast, bf16": ("fast", "bf16-mixed"),
    "compile, bf16": ("compile", "bf16-mixed"),
}


# ----------------------------------------------------------------------------------------------------------- the table


def seeded(networks: Networks) -> list[Any]:
    """The same networks each time."""
    L.seed_everything(0, verbose=False)
    return networks()


def row(case: Case, settings: list[str], iterations: int, rounds: int) -> tuple[list[str], float]:
    """Return milliseconds of an iteration with rates over the bare loop, and the seconds of compilation."""
    num, warm_up = max(iterations // case.part, 1), WARM_UP // case.part
    times: dict[str, list[float]] = {name: [] for name in ("bare", *settings)}
    compilation = 0.0
    for i in range(rounds):
        times["bare"].append(timed_bare(case.loop(case.data(), *seeded(case.networks)), num, warm_up) / num)
        for setting in settings:
            mode, precision = SETTINGS[setting]
            module = case.method(*seeded(case.networks))
            clock = timed(module, case.data(), num, Performance(mode), warm_up=warm_up, precision=precision)
            times[setting].append((clock.end - clock.warm) / num)
            if i == 0 and setting == "compile":
                compilation = clock.warm - clock.start
    return [cell(times, name) for name in times], compilation


def cell(times: dict[str, list[float]], name: str) -> str:
    """Return the milliseconds of a side, and its rate over the bare loop with its range."""
    milliseconds = f"{1e3 * statistics.median(times[name]):.1f}"
    if name == "bare":
        return milliseconds
    rates = [a / b for a, b in zip(times["bare"], times[name], strict=True)]
    return f"{milliseconds} ({statistics.median(rates):.2f}, {min(rates):.2f}-{max(rates):.2f})"


def main() -> None:
    """Print one row for every case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", default="", help="parts of names, with commas between; all if empty")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="time bfloat16 inside networks, too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    settings = list(SETTINGS) if options.bf16 else ["fast", "compile"]
    print("CPU time of an iteration in ms (rate over the bare loop, its range)\n")
    print(f"| case | bare | {' | '.join(settings)} | compilation, s |")
    print(f"| --- |{' ---: |' * (len(settings) + 2)}")
    for name, case in CASES.items():
        if any(fragment in name for fragment in options.cases.split(",")):
            cells, compilation = row(case, settings, options.iterations, options.rounds)
            print(f"| {name} | {' | '.join(cells)} | {compilation:.0f} |", flush=True)


if __name__ == "__main__":
    main()
