"""Measure geodesics between many pairs of latents at once against one pair, in one run.

Maps are the sphere and decoders of random tanh layers. A round times all pairs together and three of them alone. The
goal is a ratio of at most 5 for 100 pairs. Both sides take the same number of steps. The last rows stop when pairs have
settled, and settled pairs leave the batch. Times are those that this process spends on the CPU, so that other processes
on the machine disturb them little.

    python benchmarks/geodesics.py [--rounds 3] [--pairs 100] [--steps 25]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pt_flows.functional.geodesics import geodesics
from pt_flows.functional.geometry import Map, Metric


def sphere(z: Tensor) -> Tensor:
    """Points of the unit sphere at two angles."""
    polar, azimuth = z.unbind(1)
    return torch.stack([polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos()], 1)


def decoder(num_out: int, width: int) -> nn.Module:
    """Return two hidden tanh layers from two latents."""
    return nn.Sequential(
        nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, num_out)
    ).requires_grad_(False)


def seconds(part: Callable[[], Any]) -> float:
    """Return the CPU time of one call."""
    start = time.process_time()
    part()
    return time.process_time() - start


def compare(name: str, f: Map, pairs: int, steps: int, rounds: int, tolerance: float) -> None:
    """Time all pairs together against the mean of three pairs alone, and print a row of the table."""
    z0, z1 = torch.rand(pairs, 2) + 0.4, torch.rand(pairs, 2) + 1.0
    search = lambda i, j: geodesics(Metric(f), z0[i:j], z1[i:j], num_steps=steps, tolerance=tolerance)
    search(0, 1)
    search(0, pairs)
    alone = [statistics.mean(seconds(lambda i=i: search(i, i + 1)) for i in range(3)) for _ in range(rounds)]
    together = [seconds(lambda: search(0, pairs)) for _ in range(rounds)]
    ratios = [b / a for a, b in zip(alone, together, strict=True)]
    a, b = statistics.median(alone), statistics.median(together)
    print(f"| {name} | {a:.2f} | {b:.2f} | {statistics.median(ratios):.1f} | {min(ratios):.1f}-{max(ratios):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=25)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, {arguments.pairs} pairs, median of {arguments.rounds} rounds\n")
    print(f"| map | one pair, s | {arguments.pairs} pairs, s | ratio | range |\n| --- | ---: | ---: | ---: | --- |")
    cases: list[tuple[str, Map, int]] = [
        ("sphere", sphere, arguments.steps),
        ("decoder 2-64-64-2", decoder(2, 64), arguments.steps),
        ("decoder 2-128-128-2", decoder(2, 128), arguments.steps),
        ("decoder 2-512-512-256", decoder(256, 512), max(1, arguments.steps // 5)),
    ]
    for name, f, steps in cases:
        compare(f"{name}, {steps} steps", f, arguments.pairs, steps, arguments.rounds, tolerance=-1.0)
    for name, f, _ in cases[:2]:
        compare(f"{name}, until settled", f, arguments.pairs, 400, arguments.rounds, tolerance=1e-4)


if __name__ == "__main__":
    main()
