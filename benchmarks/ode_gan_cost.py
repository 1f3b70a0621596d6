"""Measure the cost of an ODE-GAN iteration over its parts timed alone and over a hand-written loop, in one run.

The parts are one evaluation of the field for every stage and one of the regulariser's gradient. Every round times an
iteration of the Trainer (with optimizer, weight average and logging) and then the parts on the same minibatch; the
ratio is the median over rounds. The hand-written loop takes an Euler step with `loss.backward()` and plain SGD. Memory
is the peak of the process during the iterations above its memory before the first one.

    python benchmarks/ode_gan_cost.py [--rounds 7] [--width 64] [--batch_size 16]
"""

import argparse
import copy
import logging
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.autograd import grad

from pt_flows.data import Shapes32
from pt_flows.functional.objectives import discriminator_loss, generator_loss
from pt_flows.methods import ODEGAN
from pt_flows.methods.games.ode_gan import Draw, average
from pt_flows.nets import SNDCGANCritic, SNDCGANGenerator
from pt_flows.training.flat import joined

LAM, H = 0.02, 0.01
WARM_UP = 2


def resident(key: str) -> float:
    """Memory of this process in MB: VmRSS now, VmHWM at its peak."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(key))
    return int(line.split()[1]) / 1024


def seconds(part: Callable[[], Any]) -> float:
    start = time.perf_counter()
    part()
    return time.perf_counter() - start


def regulariser(module: ODEGAN, draw: Draw) -> torch.Tensor:
    """Return the regulariser's gradient and compute nothing else."""
    theta, phi = module.split(module.duel.parameters)
    fake = module.critic(module.generator(draw.z))
    g = joined(grad(generator_loss(fake), phi, create_graph=True))
    return average(joined(grad(g, theta, grad_outputs=2 * average(g.detach()))))


class HandWritten:
    """An Euler step of both players, written by hand."""

    def __init__(self, module: ODEGAN) -> None:
        self.G, self.D = copy.deepcopy(module.generator.network), copy.deepcopy(module.critic.network)
        self.optimizers = [torch.optim.SGD(net.parameters(), H) for net in (self.D, self.G)]

    def step(self, draw: Draw) -> None:
        theta, phi = list(self.D.parameters()), list(self.G.parameters())
        fake, real = self.D(self.G(draw.z)), self.D(draw.x)
        g = grad(generator_loss(fake), phi, create_graph=True)
        penalty = torch.stack([part.square().sum() for part in g]).sum()
        (discriminator_loss(real, fake) + LAM * penalty).backward(inputs=theta)
        for parameter, part in zip(phi, g, strict=True):
            parameter.grad = part.detach()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()


class Paired(L.Callback):
    """Time each iteration, then its parts."""

    def __init__(self, hand: bool) -> None:
        self.hand, self.rows = hand, []

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.twin = HandWritten(pl_module) if self.hand else None

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.iteration == 0:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak
            self.before = resident("VmRSS")
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        row = {"iteration": time.perf_counter() - self.start}
        if pl_module.iteration == WARM_UP:
            self.peak = resident("VmHWM") - self.before
        x = batch[0][0, 0]
        draw = Draw(x, (), torch.randn(len(x), *pl_module.generator.network.latent_shape))
        y = pl_module.duel.vector()
        if pl_module.iteration >= WARM_UP:
            row["field"] = seconds(lambda: pl_module.field(y, draw))
            row["regulariser"] = seconds(lambda: regulariser(pl_module, draw))
            if self.twin is not None:
                row["hand-written"] = seconds(lambda: self.twin.step(draw))  # type: ignore[union-attr]
        if pl_module.iteration > WARM_UP + 1:
            self.rows.append(row)
        if pl_module.iteration == trainer.max_steps and trainer.is_global_zero:
            self.report(pl_module, trainer.world_size)

    def report(self, module: ODEGAN, num_ranks: int) -> None:
        stages = module.tableau.num_stages
        middle = lambda key: statistics.median(row[key] for row in self.rows)
        parts = [row["iteration"] / (row["regulariser"] + stages * row["field"]) for row in self.rows]
        hand = [row["iteration"] / row["hand-written"] for row in self.rows] if self.twin else []
        cells = [
            num_ranks, stages, *(f"{middle(key):.2f}" for key in ("iteration", "field", "regulariser")),
            f"{statistics.median(parts):.2f}", f"{min(parts):.2f}-{max(parts):.2f}",
            f"{statistics.median(hand):.2f}" if hand else "", f"{self.peak:.0f}",
        ]  # fmt: skip
        print("|", *(f"{cell} |" for cell in cells), flush=True)


def measure(integrator: str, num_ranks: int, rounds: int, width: int, batch_size: int) -> None:
    """Print one row of the table."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    L.seed_everything(0, verbose=False)
    G, D = SNDCGANGenerator(width=width), SNDCGANCritic(width=width)
    module = ODEGAN(G, D, H, integrator, LAM)  # type: ignore[arg-type]
    data = Shapes32(batch_size=batch_size * num_ranks)
    L.Trainer(
        max_steps=rounds + WARM_UP + 1, max_epochs=-1, accelerator="cpu", devices=num_ranks,
        strategy="ddp_fork" if num_ranks > 1 else "auto", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0,
        log_every_n_steps=1000, callbacks=[Paired(hand=integrator == "euler" and num_ranks == 1)],
    ).fit(module, datamodule=data)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=16, help="of one process")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, lightning {L.__version__}, CPU, one thread per process, seconds")
    print(f"SNDCGAN pair, width {arguments.width}, batch {arguments.batch_size} per process\n")
    print("| ranks | stages | iteration | field | regulariser | over parts | range | over hand-written | peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for num_ranks in (1, 2):
        for integrator in ("euler", "heun", "rk4"):
            row = (integrator, num_ranks, arguments.rounds, arguments.width, arguments.batch_size)
            process = multiprocessing.get_context("spawn").Process(target=measure, args=row)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{integrator} on {num_ranks} ranks failed with exit code {process.exitcode}")


if __name__ == "__main__":
    main()
