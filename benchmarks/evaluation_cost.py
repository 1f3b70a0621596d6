"""Measure the cost of an evaluation over the bare features of the same images, and of one Fréchet distance.

    python benchmarks/evaluation_cost.py [--num 10000] [--size 64] [--rounds 3]

Images are noise of CIFAR-10's size. The compared parts take turns, and a ratio is the median over the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from pt_flows.contracts import Split
from pt_flows.functional.jackknife import frechet_left_out
from pt_flows.functional.transport import symmetric_sqrt
from pt_flows.metrics import FrechetDistance, ImageQuality, Lite0Features
from pt_flows.metrics.frechet import BATCH, frechet_distance


def seconds(work: Callable[[], object]) -> float:
    """Return the duration of the work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Noise:
    """Data that are noise, with as many real as generated images."""

    event_shape = (3, 32, 32)

    def __init__(self, num: int) -> None:
        self.num = num

    def reference(self, split: Split, num: int | None = None) -> Tensor:
        """Return random images, uint8."""
        rng = torch.Generator().manual_seed(1 + (split == "test"))
        return torch.randint(256, (num or self.num, 3, 32, 32), dtype=torch.uint8, generator=rng)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=64, help="pixels that Lite0Features resizes to")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    x = torch.rand(options.num, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = (x * 127.5 + 128).floor().clamp(0, 255).to(torch.uint8)
    net, data = Lite0Features(options.size), Noise(options.num)
    metrics = {"FrechetDistance": FrechetDistance(net), "ImageQuality": ImageQuality(net)}
    for metric in metrics.values():
        metric.prepare(data, options.num)

    def evaluate(metric: FrechetDistance) -> None:
        metric.reset()
        for part in x.split(500):
            metric.update(part)
        metric.compute()

    times: dict[str, list[float]] = {name: [] for name in ("features", *metrics)}
    for _ in range(options.rounds):
        times["features"].append(seconds(lambda: [net(batch) for batch in images.split(BATCH)]))
        for name, metric in metrics.items():
            times[name].append(seconds(lambda metric=metric: evaluate(metric)))
    bare = times.pop("features")
    print(
        f"{options.num} images at {options.size} pixels, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"bare features                {statistics.median(bare):8.2f} s")
    for name, values in times.items():
        ratios = [value / b for value, b in zip(values, bare, strict=True)]
        low, high = min(ratios), max(ratios)
        spread = f"ratio {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})"
        print(f"{name:<28} {statistics.median(values):8.2f} s   {spread}")

    quality = metrics["ImageQuality"]
    assert isinstance(quality, ImageQuality)
    f, mean, root = dim_zero_cat(quality.found), quality.reference.mean, quality.root
    left_out = [seconds(lambda: frechet_left_out(f, mean, root)) for _ in range(options.rounds)]
    shares = [part / whole for part, whole in zip(left_out, times["ImageQuality"], strict=True)]
    print(f"interval of the distance     {statistics.median(left_out):8.2f} s   {statistics.median(shares):.1%} of it")

    pair = torch.randn(2, 3_000, 2048, dtype=torch.float64)
    (m, m2), (c, c2) = pair.mean(1), [part.T.cov() for part in pair]
    root = symmetric_sqrt(c)
    print(f"Fréchet solve, d = 2048      {seconds(lambda: frechet_distance(m, c, m2, c2)):8.2f} s")
    print(f"with the cached root         {seconds(lambda: frechet_distance(m, c, m2, c2, root)):8.2f} s")


if __name__ == "__main__":
    main()
