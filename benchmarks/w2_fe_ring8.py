"""Compare particle flows on the ring of eight: persistence, methods and estimators under the same conditions.

It trains every case for the same number of iterations with the networks, batch and optimizers of
configs/toy2d/w2_fe.yaml, some side by side on one thread each. Then it prints a table and writes pictures: W2 over
time, and samples. Finished cases are not repeated.

    python benchmarks/w2_fe_ring8.py [--jobs 2] [--runs runs/ring8] [--out .] [--seeds 5]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from matplotlib.figure import Figure

from pt_flows import sample
from pt_flows.contracts import Batch, Terms
from pt_flows.data import Toy2D
from pt_flows.functional.distances import exact_distances
from pt_flows.functional.transport import exact_wasserstein
from pt_flows.loop.method import Method
from pt_flows.methods import W1FE, W2FE, JSFlow, MinibatchW2FE
from pt_flows.metrics import ModeCoverage
from pt_flows.nets import MLPCritic, ResidualMLPGenerator
from pt_flows.plots import save_density
from pt_flows.training.noise import generator_at
from pt_flows.training.players import Critic, Generator
from pt_flows.training.schedules import Progress, Schedule, scheduled
from pt_flows.training.steps import fit_critic

ITERATIONS, MARKS, NUM, MANY = 600, (50, 100, 200, 400, 600), 512, 4000
COSINE = Schedule(decay="cosine")


class RepeatedW2(W2FE):
    """W2-GAN's generator step, K times on the same latents, in contrast to persistent training."""

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Fit the critic, then take K steps up the potential."""
        terms = fit_critic(self.critic, self.critic_loss, minibatches, self.particles)
        z = self.generator.latents(len(minibatches[0][0]), self.noise)
        for _ in range(max(1, round(self.persistence(self.progress)))):
            self.generator.step(-self.potential(self.generator(z)).mean())
        return terms


def cases() -> dict[str, tuple[str, type[Method], dict[str, Any]]]:
    """Return name to (title, method, arguments)."""
    w2 = {"inequality_weight": 200.0, "interpolated_weight": 200.0, "equality_weight": 0.0, "persistence": 5}
    found: dict[str, Any] = {}
    for K in (1, 3, 5, 10, 20):
        title = "W2-GAN (W2-FE, K = 1)" if K == 1 else f"W2-FE, K = {K}"
        found[f"w2-{K}"] = (title, W2FE, w2 | {"persistence": K})
    for K in (5, 20):
        found[f"repeated-w2-{K}"] = (f"W2-GAN's step {K} times", RepeatedW2, w2 | {"persistence": K})
    found["w2-falling"] = ("W2-FE, K = 20 falling to 1", W2FE, w2 | {"persistence": Schedule(20, "cosine")})
    found["w1-1"] = ("WGAN-LP (W1-FE, K = 1)", W1FE, {"persistence": 1})
    found["w1-5"] = ("W1-FE, K = 5, ε = 0.1", W1FE, {"persistence": 5, "step_size": 0.1})
    found["js-5"] = ("JS flow, K = 5, ε = 0.1", JSFlow, {"persistence": 5, "step_size": 0.1})
    found["minibatch-5"] = ("W2-FE by exact transport, K = 5", MinibatchW2FE, {"persistence": 5})
    found["plain-5"] = ("W2-FE, K = 5, no term between samples", W2FE, w2 | {"interpolated_weight": 0.0})
    found["equal-5"] = ("W2-FE, K = 5, with equality terms", W2FE, w2 | {"equality_weight": 200.0})
    found["real-5"] = ("W2-FE, K = 5, released side (+∇φ)", W2FE, w2 | {"potential_side": "real"})
    found["mean-5"] = ("W2-FE, K = 5, mean of both sides", W2FE, w2 | {"potential_side": "mean"})
    return found


class Watch(L.Callback):
    """Record W1 and W2 of the averaged weights during training."""

    def __init__(self, data: Toy2D) -> None:
        self.real = data.reference("test", NUM)
        self.rows: list[tuple[int, float, float, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.iteration in MARKS:
            x = sample(pl_module, NUM, rng=generator_at("cpu", "evaluation", 0))
            pl_module.cost.tick()
            w1, w2 = (exact_wasserstein(x, self.real, p) for p in (1, 2))
            self.rows.append((pl_module.iteration, pl_module.cost.seconds, w1, w2))


def train(name: str, seed: int) -> dict[str, Any]:
    """Train one case and measure it."""
    torch.set_num_threads(1)
    L.seed_everything(seed, verbose=False)
    _, cls, arguments = cases()[name]
    G = ResidualMLPGenerator(batch_norm=False, init_std=0.05)
    adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.9))
    critic = lambda: MLPCritic(init_std=0.1)
    players: list[Any] = [Generator(G, adam, COSINE, ema_decay=0.99)]
    players += [] if cls is MinibatchW2FE else [Critic(critic(), adam, COSINE)]
    arguments = {"reduction": "mean"} | arguments
    arguments |= {"excess": critic()} if issubclass(cls, W2FE) else {}
    module, data = cls(*players, **arguments), Toy2D("ring8", batch_size=512)
    watch = Watch(data)
    trainer = L.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, max_epochs=-1, max_steps=ITERATIONS, callbacks=[watch],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    x = sample(module, MANY, rng=generator_at("cpu", "many"))
    coverage = ModeCoverage()
    coverage.prepare(data, MANY)
    coverage.update(x)
    centres = data.law.centres  # pyright: ignore[reportAttributeAccessIssue]
    distance, nearest = exact_distances(x, centres).min(1)
    near = [x[(nearest == k) & (distance < 0.3)] for k in range(len(centres))]
    width = statistics.fmean(float(points.var(0).mean().sqrt()) if len(points) > 1 else 0.0 for points in near)
    w2_many = exact_wasserstein(x, data.reference("test", MANY), p=2)
    return coverage.compute() | {
        "rows": watch.rows, "w2_many": w2_many, "width": width / 0.1, "seconds": module.cost.seconds,
        "images": module.cost.images_seen, "samples": x[:2000].tolist(),
    }  # fmt: skip


def floors() -> tuple[float, float]:
    """Return W2 of real against real, for few and for many points."""
    data = Toy2D("ring8")
    few, many = (
        statistics.fmean(
            exact_wasserstein(x, data.reference("test", n), 2) for x in data.reference("train", 4 * n).split(n)
        )
        for n in (NUM, MANY)
    )
    return few, many


def generator_steps(arguments: dict[str, Any]) -> int:
    """Return the number of optimizer steps of the generator in a run."""
    K = scheduled(arguments["persistence"])
    return sum(max(1, round(K(Progress(t, ITERATIONS)))) for t in range(ITERATIONS))


def table(results: dict[str, list[dict[str, Any]]]) -> None:
    """Print medians over seeds, with the worst in brackets."""
    few, many = floors()
    print(f"W2 floors, real against real: {few:.3f} for {NUM} points, {many:.3f} for {MANY}\n")
    print(f"| method | seeds | W1, 200 it. | W2 / floor, {NUM} | W2 / floor, {MANY} | modes | good | width |", end="")
    print(" G steps | images, million | seconds |\n|", "--- |" * 11)
    for name, runs in results.items():
        if not runs:
            continue
        median = lambda values, worst=max: f"{statistics.median(values):.2f} ({worst(values):.2f})"
        at_200 = [row[2] for r in runs for row in r["rows"] if row[0] == 200]
        cells = [cases()[name][0], len(runs), median(at_200), median([r["rows"][-1][3] / few for r in runs])]
        cells += [median([r["w2_many"] / many for r in runs]), f"{min(r['modes'] for r in runs):.0f}/8"]
        cells += [f"{statistics.median(r['high_quality'] for r in runs):.0%}", median([r["width"] for r in runs], min)]
        cells += [generator_steps(cases()[name][2]), f"{runs[0]['images'] / 1e6:.2f}"]
        cells += [f"{statistics.median(r['seconds'] for r in runs):.0f}"]
        print("|", *(f"{cell} |" for cell in cells))


def pictures(results: dict[str, list[dict[str, Any]]], out: Path) -> None:
    """Draw W2 over iterations and seconds for each K, and samples of the first seed."""
    few, _ = floors()
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, x, label in zip(axes, (0, 1), ("iterations", "seconds of training"), strict=True):
        for name, runs in results.items():
            if name.startswith(("w2-", "w1-", "minibatch")) and runs:
                rows = [
                    [statistics.median(r["rows"][i][k] for r in runs) for k in (0, 1, 3)] for i in range(len(MARKS))
                ]
                axis.semilogy(
                    [r[x] for r in rows], [r[2] for r in rows], marker="o", ms=3, lw=1, label=cases()[name][0]
                )
        axis.axhline(few, c="grey", lw=1, ls=":")
        axis.set_xlabel(label)
    axes[1].legend(fontsize=7, frameon=False)
    axes[0].set_ylabel(f"W2 of {NUM} samples, median of seeds")
    figure.savefig(out / "w2_fe_ring8_curves.png", dpi=110)
    panels = {"target": Toy2D("ring8").reference("test", 2000)}
    shown = ("w2-1", "w2-5", "plain-5", "minibatch-5", "w1-5")
    panels |= {cases()[n][0]: torch.tensor(results[n][0]["samples"]) for n in shown if results[n]}
    save_density(panels, out / "w2_fe_ring8_samples.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "ring8")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("CASE", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    file = lambda name, seed: arguments.runs / f"{name}-s{seed}.json"
    if arguments.one:
        name, seed = arguments.one[0], int(arguments.one[1])
        file(name, seed).write_text(json.dumps(train(name, seed)))
        return
    wanted = [(name, seed) for seed in range(arguments.seeds) for name in cases() if not file(name, seed).is_file()]

    def start(case: tuple[str, int]) -> None:
        command = [sys.executable, __file__, "--runs", str(arguments.runs), "--one", case[0], str(case[1])]
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, stderr=subprocess.DEVNULL)
        print(f"{case[0]}, seed {case[1]}: done", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(start, wanted))
    found = {name: [file(name, seed) for seed in range(arguments.seeds)] for name in cases()}
    results = {name: [json.loads(f.read_text()) for f in files if f.is_file()] for name, files in found.items()}
    table(results)
    pictures(results, arguments.out)


if __name__ == "__main__":
    main()
