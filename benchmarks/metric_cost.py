"""Measure the CPU time of metrics: once before a run (`prepare`), and for each evaluation (`update`, `compute`).

    OMP_NUM_THREADS=1 python benchmarks/metric_cost.py > benchmarks/metric_cost_cpu_YYYYMM.md

Samples are real ones of a toy, and for images noise of CIFAR-10's size. Times are those that this process spends on the
CPU, so that other processes on the machine disturb them little. The reference of images is computed afresh. A second
table shows how the computations grow with the number of samples, features apart: `--growth` prints it alone.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any

import torch
from evaluation_cost import Noise

from pt_flows.data import Toy2D
from pt_flows.functional.jackknife import frechet_left_out
from pt_flows.functional.transport import exact_wasserstein, symmetric_sqrt
from pt_flows.metrics import (
    ExactWasserstein,
    FrechetDistance,
    GridKL,
    Lite0Features,
    ModeCoverage,
    SampleDiscrepancy,
)
from pt_flows.metrics.base import SampleMetric
from pt_flows.metrics.frechet import frechet_distance, moments
from pt_flows.metrics.quality import kernel_distance, manifolds
from pt_flows.nets import MLPEnergy

NET = "EfficientNet-Lite0 at 64"
HEAD = """# Cost of metrics on a CPU, {month}

    OMP_NUM_THREADS=1 python benchmarks/metric_cost.py

One thread of a shared {machine} machine, torch {torch}. Numbers are CPU seconds of one round. `prepare` runs once
before training. Metrics of encoders, likelihoods and maps are absent: their time is that of the method's networks.
For `ImageQuality` see [evaluation_cpu_202611.md](evaluation_cpu_202611.md): 26 seconds at 10,000 images on two threads.

| metric | data | `prepare` | an evaluation |
| --- | --- | --- | --- |"""


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of the work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def evaluate(metric: SampleMetric, x: torch.Tensor) -> None:
    """Measure samples as the callback does."""
    metric.reset()
    metric.update_energy(energy)
    for part in x.split(500):
        metric.update(part)
    metric.compute()


def costs(metric: SampleMetric, data: Any, num: int) -> tuple[float, float]:
    """Return the seconds of `prepare` and of an evaluation."""
    points = data.reference("train", num)
    x = points / 127.5 - 1 if points.dtype == torch.uint8 else points
    return seconds(lambda: metric.prepare(data, num)), seconds(lambda: evaluate(metric, x))


@torch.no_grad()
def energy(x: torch.Tensor) -> torch.Tensor:
    """Return the energies of points by a small network."""
    return network(x)


network = MLPEnergy()


GROWTH = """
| computation | samples of either kind | seconds |
| --- | ---: | ---: |"""


def growth() -> None:
    """Print the time of computations on random features of 1,280 dimensions, and on points of the plane."""
    torch.manual_seed(0)
    print(GROWTH)
    for num in (2_000, 10_000):
        x, y = torch.randn(2, num, 1280)
        one, other = (moments(f.double().sum(0), f.double().T @ f.double(), num) for f in (x, y))
        works: dict[str, Callable[[], object]] = {
            "Fréchet distance of moments": partial(frechet_distance, *one, *other),
            "its jackknife interval": partial(frechet_left_out, x, other.mean, symmetric_sqrt(other.covariance)),
            "KID with its interval": partial(kernel_distance, x, y),
            "precision, recall, density, coverage": partial(manifolds, x, y),
        }
        for name, work in works.items():
            print(f"| {name} | {num:,} | {seconds(work):.1f} |", flush=True)
    toy = Toy2D(target="ring8")
    for num in (1_000, 2_000, 5_000):
        x, y = (toy.reference(split, num) for split in ("train", "test"))
        spent = seconds(partial(exact_wasserstein, x, y, 2))
        print(f"| exact W2 of points of the plane | {num:,} | {spent:.1f} |", flush=True)


def main() -> None:
    """Print the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--growth", action="store_true", help="the second table alone")
    if parser.parse_args().growth:
        return growth()
    os.environ["PT_FLOWS_CACHE"] = tempfile.mkdtemp()
    month, machine = f"{date.today():%B %Y}", platform.machine()
    print(HEAD.format(month=month, machine=machine, torch=torch.__version__))
    toy, images = Toy2D(target="ring8"), Noise(1_000)
    net = Lite0Features(64)
    net(images.reference("test", 10))  # the weights are read before the clock starts
    rows: list[tuple[SampleMetric, Any, int]] = [
        (ExactWasserstein(), toy, 512),
        (ExactWasserstein(), toy, 2_000),
        (SampleDiscrepancy(), toy, 2_000),
        (ModeCoverage(), toy, 2_000),
        (GridKL(), toy, 2_000),
        (FrechetDistance(net), images, 1_000),
    ]
    for metric, data, num in rows:
        before, each = costs(metric, data, num)
        what = f"{num:,} points of the plane" if data is toy else f"{num:,} images of 32 pixels, {NET}"
        print(f"| `{type(metric).__name__}` | {what} | {before:.2f} | {each:.2f} |", flush=True)
    growth()


if __name__ == "__main__":
    main()
