"""Long chains from data, which stay at the data under a calibrated energy."""

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pt_flows.contracts import Weights
from pt_flows.data.base import FlowData
from pt_flows.evaluation.energies import with_model_noise
from pt_flows.metrics.base import real_samples
from pt_flows.plots import large_grid_of
from pt_flows.progress import track
from pt_flows.training.noise import generator_at


def walk_far(
    method: Any, data: FlowData, num_chains: int, num_steps: int, target: Path, seed: int, weights: Weights
) -> None:
    """Run chains from real samples, far longer than in training, and write a picture over time and a table.

    Chains of a calibrated model stay at the data: energies keep their level, images stay images. If the model includes
    noise on the data, chains start from noised samples. If it denoises its samples, the picture shows denoised ones.

    Args:
        method: The method, on its device.
        data: The data; chains start from the first samples of the test split.
        num_chains: Number of chains.
        num_steps: Number of Langevin steps of each, at label 0 if there are labels.
        target: PNG to write; the table has its name with .csv.
        seed: Seed of the chains' noise.
        weights: The averaged weights, or the raw ones.
    """
    start = with_model_noise(method, real_samples(data, num_chains), seed, "chains")
    real = method.clean_energy(with_model_noise(method, real_samples(data, 1000), seed, "real"), weights)
    rng, x = generator_at(method.device, seed, "long run"), start
    stops = sorted({0, num_steps, *(min(num_steps, round(10 ** (i / 2))) for i in range(20))})
    rows, shown = [], [method.finished(start, weights)]
    chain, _ = method.walk(x, 0, rng, weights)
    rows.append(describe(0, x, start, chain.energy, torch.ones(())))
    stretches = [(a, b, done) for a, b in zip(stops, stops[1:], strict=False) for done in range(a, b, 100)]
    accepted, steps = torch.zeros((), device=method.device), 0
    for _, stop, done in track(stretches, "walking"):
        num = min(100, stop - done)
        chain, acceptance = method.walk(x, num, rng, weights)
        x, accepted, steps = chain.x, accepted + num * acceptance.mean(), steps + num
        if done + num == stop:
            rows.append(describe(stop, x, start, chain.energy, accepted / steps))
            shown.append(method.finished(x, weights))
            accepted, steps = torch.zeros_like(accepted), 0
    with target.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    draw_long_run(torch.stack(shown, 1).cpu(), stops, target)
    first, last, width = rows[0]["energy"], rows[-1]["energy"], float(real.std())
    print(f"{num_chains} chains of {num_steps} steps; mean energy {first:.4g} at the start, {last:.4g} at the end")
    print(f"drift {(last - first) / width:+.2f} standard deviations of real samples' energies (mean {real.mean():.4g})")
    print(f"wrote {target} and {target.with_suffix('.csv')}")


def describe(step: int, x: Tensor, start: Tensor, energy: Tensor, acceptance: Tensor) -> dict[str, float]:
    """One row of the table of long chains."""
    return {
        "step": step,
        "energy": float(energy.mean()),
        "acceptance": float(acceptance),
        "distance_from_start": float((x - start).flatten(1).norm(dim=1).mean()),
        "norm": float(x.flatten(1).norm(dim=1).mean()),
        "outside": float((x.abs() > 1).float().mean()),
    }


def draw_long_run(x: Tensor, stops: list[int], target: Path) -> None:
    """Chains (num, times, *event) over time: a row for each image, a panel for each time in the plane."""
    from matplotlib.figure import Figure

    if x.dim() == 5:
        times = x.shape[1]
        grid = large_grid_of(x.flatten(0, 1), columns=times).permute(1, 2, 0).numpy()
        figure = Figure(figsize=(grid.shape[1] / 90, grid.shape[0] / 90 + 0.5), layout="constrained")
        axis = figure.subplots()
        axis.imshow(grid, interpolation="nearest")
        axis.set_xticks([(i + 0.5) * grid.shape[1] / times for i in range(times)], [f"{step:,}" for step in stops])
        axis.xaxis.tick_top()
        axis.set(yticks=[], title="steps")
        axis.tick_params(length=0)
        figure.savefig(target, dpi=100)
        return
    figure = Figure(figsize=(2.6 * x.shape[1], 2.9), layout="constrained")
    centre, half = x.flatten(0, 1).mean(0), 1.1 * float((x - x.flatten(0, 1).mean(0)).abs().max())
    for i, axis in enumerate(figure.subplots(1, x.shape[1], squeeze=False)[0]):
        axis.scatter(*x[:, i].T, s=5, c="#d95f02", linewidths=0)
        limits = [(float(c) - half, float(c) + half) for c in centre]
        axis.set(xlim=limits[0], ylim=limits[1], xticks=[], yticks=[], aspect="equal", title=f"{stops[i]} steps")
    figure.savefig(target, dpi=100)
