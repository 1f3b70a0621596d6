"""Training as a flow, on a one-layer game: modified equations, fluctuation-dissipation, integrators, sample size.

    python benchmarks/one_layer.py [PICTURE]

The game is that of `one_layer_game.py`. The script prints the tables of the record and draws its picture, in four
minutes of a core.
"""

import logging
import sys
import warnings
from functools import partial
from typing import Any

import lightning as L
import numpy as np
import torch
from one_layer_game import BATCH, COPIES, EXACT, PAIRS, RATE, SCHEMES, START, Run, distance, simulated, trained
from torch import Tensor
from torch.func import vmap

from pt_flows.data import OneLayer
from pt_flows.functional.integrators import TABLEAUS, Field, Integrator, rk_step
from pt_flows.functional.modified_flow import Order, Scheme, follow
from pt_flows.methods import MomentGAN
from pt_flows.metrics import OneLayerError
from pt_flows.nets import OneLayerGenerator
from pt_flows.training.players import Generator

ORDERS: tuple[Order, ...] = (1, 2)
SIZES, SEEDS = (250, 500, 1000, 2000, 4000, 8000), range(5)

Series = dict[Any, Any]

# --------------------------------------------------------------------------------------------------- modified equations


def weak_errors() -> Series:
    """Distances (steps, C) by scheme, rate and source, and a table of their means early (t < 2) and at rest (t > 4)."""
    found: Series = {}
    print("\n| updates | η | time | run | first order | second order |\n| --- | ---: | --- | ---: | ---: | ---: |")
    for scheme in SCHEMES:
        for rate in (RATE, RATE / 2):
            sources = {"run": trained(scheme, rate)} | {str(k): simulated(scheme, rate, k) for k in ORDERS}
            series = {name: torch.stack([distance(z) for z in source]) for name, source in sources.items()}
            num = len(series["run"])
            for when, span in {"t < 2": slice(num // 4), "t > 4": slice(num // 2, None)}.items():
                means = {name: d[span].mean(0) for name, d in series.items()}
                told = {name: (float(d.mean()), float(d.std()) / COPIES**0.5) for name, d in means.items()}
                base, spread = told.pop("run")
                gaps = [f"{m - base:+.4f} ± {(s**2 + spread**2) ** 0.5:.4f}" for m, s in told.values()]
                print(f"| {scheme} | {rate:g} | {when} | {base:.4f} ± {spread:.4f} | {' | '.join(gaps)} |", flush=True)
            found |= {(scheme, rate, name): d.numpy() for name, d in series.items()}
    return found


def noiseless_errors() -> None:
    """Print distances between runs on all pairs and flows at time 2."""
    print("\n| updates | η | first order | ratio | second order | ratio |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for scheme in SCHEMES:
        last: dict[int, float] = {}
        for rate in (0.1, 0.05, 0.025, 0.0125):
            end, cells = EXACT.run(START, rate, round(2 / rate), scheme), []
            for order in ORDERS:
                error = float((end - follow(EXACT.drift(rate, scheme, order), START, 2.0, 60)).norm())
                cells += [f"{error:.2e}", f"{last[order] / error:.2f}" if order in last else ""]
                last[order] = error
            print(f"| {scheme} | {rate:g} | {' | '.join(cells)} |")


# ---------------------------------------------------------------------------------------------------------- the monitor


def monitored(scheme: Scheme, num_steps: int = 1500, every: int = 50) -> Series:
    """Rows of the monitor's log, and a table of the last one with the sides of the continuous relation."""
    run, rows = Run(scheme, RATE), []
    for _ in range(num_steps // every):
        for _ in range(every):
            run.step()
        rows.append(run.monitor.report())
    trace = vmap(partial(PAIRS.covariance, scheme=scheme))(run.z).diagonal(dim1=1, dim2=2).split(4, 1)
    late = rows[len(rows) // 2 :]
    for player, part in zip(run.optimizers, trace, strict=True):
        left, right = (
            np.mean([row[f"train/fdr_{side}_{player}"] for row in late]) / COPIES for side in ("left", "right")
        )
        first, last = (row[f"train/fdr_ratio_{player}"] for row in (rows[0], rows[-1]))
        sde = RATE / (2 * BATCH) * float(part.sum(1).mean())
        print(f"| {scheme} | {player} | {left:.4f} | {right:.4f} | {first:.3f} | {last:.4f} | {sde:.4f} |", flush=True)
    return {key: np.array([row[key] for row in rows]) for key in rows[0]} | {
        "step": every * np.arange(1, len(rows) + 1)
    }


# ---------------------------------------------------------------------------------------------------------- integrators


def integrated(name: Integrator, steps: Tensor, num_evaluations: int = 400) -> np.ndarray:
    """Distances (steps, K) of a Runge-Kutta method on the exact field, for K step sizes at once."""
    tableau, field = TABLEAUS[name], EXACT.drift(0.0, "simultaneous", 1)
    scaled: Field = lambda t, z: steps[:, None] * field(t, z)  # a step of length one moves by h
    z = START.expand(len(steps), 8)
    found = [distance(z)]
    for _ in range(num_evaluations // tableau.num_stages):
        z = rk_step(scaled, 0.0, z, 1.0, tableau)
        found.append(distance(z))
    return torch.stack(found).sqrt().numpy()


def reached(distances: np.ndarray, goal: float, stages: int) -> float:
    """Evaluations after which a distance stays below a goal."""
    above = np.flatnonzero(~(distances < goal))
    return np.inf if len(above) and above[-1] == len(distances) - 1 else stages * (above[-1] + 1)


def integrators() -> Series:
    """Distances against evaluations at the best step of each method, and a table."""
    found: Series = {}
    steps = torch.cat([torch.tensor([0.1]), torch.logspace(-1.7, 0.3, 41)]).double()
    names: tuple[Integrator, ...] = ("euler", "heun", "rk4")
    print("\n| integrator | 1e-3 at h = 0.1 | best h | 1e-3 | 1e-6 | largest h that arrives |\n| --- |" + " ---: |" * 5)
    for name in names:
        stages, runs = TABLEAUS[name].num_stages, integrated(name, steps)
        costs = [[reached(d, goal, stages) for goal in (1e-3, 1e-6)] for d in runs.T]
        best = min(range(1, len(steps)), key=lambda i: costs[i])
        largest = max(float(h) for h, cost in zip(steps, costs, strict=True) if np.isfinite(cost[0]))
        cells = [costs[0][0], float(steps[best]), *costs[best], largest]
        print(f"| {name} | {' | '.join(f'{c:.3g}' if np.isfinite(c) else '> 400' for c in cells)} |")
        found[name] = (float(steps[best]), stages * np.arange(len(runs)), runs[:, best])
    return found


# ---------------------------------------------------------------------------------------------------------- sample size


def fitted(activation: Any, num: int, seed: int) -> dict[str, float]:
    """Errors of the generator that MomentGAN learns from `num` samples in four dimensions."""
    L.seed_everything(seed, verbose=False)
    data = OneLayer(4, 2, activation, num)
    start = OneLayerGenerator(4, activation=activation)
    method = MomentGAN(Generator(start, partial(torch.optim.SGD, lr=0.3)), unit_rows=True)
    L.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, max_epochs=-1, max_steps=400,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
    ).fit(method, datamodule=data)  # fmt: skip
    metric = OneLayerError()
    metric.prepare(data, 1)
    metric.update_map(partial(method.generator.push, weights="raw"))
    return metric.compute()


def sample_sizes() -> Series:
    """Errors (sizes, seeds) by activation with their floors, and a table with the slopes of their means."""
    found: Series = {}
    print(f"\n| φ | {' | '.join(f'n = {n}' for n in SIZES)} | slope |\n" + "| --- |" + " ---: |" * (len(SIZES) + 1))
    for activation in ("leaky_relu", "tanh"):
        runs = [[fitted(activation, n, seed) for seed in SEEDS] for n in SIZES]
        for key, suffix in (("moment_error", ""), ("moment_error_floor", ", floor")):
            errors = np.array([[run[key] for run in row] for row in runs])
            slope = np.polyfit(np.log(SIZES), np.log(errors.mean(1)), 1)[0]
            slopes = [np.polyfit(np.log(SIZES), np.log(column), 1)[0] for column in errors.T]
            cells = [f"{row.mean():.3f} ± {row.std(ddof=1):.3f}" for row in errors]
            print(
                f"| {activation}{suffix} | {' | '.join(cells)} | {slope:.2f} ({min(slopes):.2f} to {max(slopes):.2f}) |"
            )
            found[activation + suffix] = errors
    return found


# ---------------------------------------------------------------------------------------------------------- the picture


def draw(path: str, runs: Series, monitors: Series, steps: Series, sizes: Series) -> None:
    """Draw the six panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.6), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    for axis, scheme in zip(panels, SCHEMES, strict=False):
        draw_runs(axis, scheme, runs)
    draw_sizes(panels[2], sizes)
    draw_monitor(panels[3], panels[4], monitors["alternating"])
    for name, (h, evaluations, distances) in steps.items():
        panels[5].semilogy(evaluations, distances, label=f"{name}, h = {h:.2g}")
    panels[5].set(
        title="Integrators, each at its best step", xlabel="gradient evaluations", ylabel="distance from rest"
    )
    panels[5].set(xlim=(0, 250), ylim=(1e-8, 3))
    panels[5].legend()
    figure.savefig(path, dpi=110)


def draw_runs(axis: Any, scheme: Scheme, runs: Series) -> None:
    """Draw means and bands of a run and of its equations."""
    styles = {"run": ("black", "-"), "1": ("#d95f02", "--"), "2": ("#1f77b4", "-")}
    names = {"run": "SGD", "1": "equation of first order", "2": "equation of second order"}
    for name, (colour, line) in styles.items():
        d = runs[scheme, RATE, name]
        t = RATE * np.arange(len(d))
        axis.fill_between(t, *np.quantile(d, [0.1, 0.9], 1), color=colour, alpha=0.12, linewidth=0)
        axis.plot(t, d.mean(1), line, color=colour, label=names[name])
    axis.set_yscale("log")
    axis.set(
        title=f"{scheme.capitalize()} updates, η = {RATE:g}",
        xlabel="t = η · steps",
        ylabel="squared distance",
        ylim=(0.004, 2),
    )
    axis.legend(loc="upper right")


def draw_monitor(sides: Any, ratio: Any, rows: Series) -> None:
    """Draw both sides and the ratio of both players."""
    for player, colour in (("generator", "#1b9e77"), ("critic", "#7570b3")):
        for side, line in (("left", "-"), ("right", "--")):
            name = {"left": "dissipation", "right": "fluctuation"}[side]
            values = rows[f"train/fdr_{side}_{player}"] / COPIES
            sides.plot(rows["step"], values, line, color=colour, label=f"{player}, {name}")
        ratio.plot(rows["step"], rows[f"train/fdr_ratio_{player}"], color=colour, label=player)
    ratio.axhline(1.0, color="grey", linewidth=0.8)
    sides.set(
        title="Fluctuation-dissipation, alternating",
        xlabel="steps",
        ylabel="mean of 50 steps, one copy",
        ylim=(-0.001, 0.02),
    )
    ratio.set(
        title="Ratio over the later half of the record",
        xlabel="steps",
        ylabel="dissipation / fluctuation",
        ylim=(0.5, 2.0),
    )
    sides.legend(fontsize="small")
    ratio.legend()


def draw_sizes(axis: Any, sizes: Series) -> None:
    """Draw errors of fitted generators against the number of samples."""
    for (name, errors), colour in zip(sizes.items(), ("#1f77b4", "black", "#d95f02", ""), strict=True):
        if name == "leaky_relu, floor":
            axis.plot(SIZES, errors.mean(1), "--", color=colour, label="floor, before φ")
        elif colour:
            axis.plot(SIZES, errors.mean(1), "o-", color=colour, label=name.replace("_", " "))
            axis.fill_between(SIZES, errors.min(1), errors.max(1), color=colour, alpha=0.12, linewidth=0)
    axis.plot(SIZES, 4 * np.array(SIZES) ** -0.5, ":", color="grey", label="slope -1/2")
    axis.set(xscale="log", yscale="log", title="MomentGAN, mean and range of five seeds", xlabel="samples n")
    axis.set(
        ylabel="‖A Aᵀ - Σ*‖", yticks=[0.02, 0.05, 0.1, 0.2, 0.5], yticklabels=["0.02", "0.05", "0.1", "0.2", "0.5"]
    )
    axis.set(xticks=SIZES, xticklabels=[str(n) for n in SIZES])
    axis.minorticks_off()
    axis.legend(fontsize="small")


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    run, again = Run("alternating", RATE, 3), torch.Generator().manual_seed(1)
    for _ in range(5):
        run.step()
    torch.testing.assert_close(run.z, PAIRS.run(START.expand(3, 8), RATE, 5, "alternating", BATCH, again))
    noiseless_errors()
    steps = integrators()
    print(
        "\n| updates | player | dissipation | fluctuation | first ratio | last ratio | η / 2B Tr Σ |\n| --- | --- |"
        + " ---: |" * 5
    )
    monitors = {scheme: monitored(scheme) for scheme in SCHEMES}
    runs = weak_errors()
    draw(sys.argv[1] if len(sys.argv) > 1 else "one_layer.png", runs, monitors, steps, sample_sizes())


if __name__ == "__main__":
    main()
