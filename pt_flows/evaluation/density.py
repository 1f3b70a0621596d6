"""Normalised log-densities of energy-based models with noise levels."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pt_flows.bounds import AtLeastTwo
from pt_flows.contracts import HasLevels, Weights
from pt_flows.errors import UserError
from pt_flows.evaluation.energies import load_energy, with_model_noise
from pt_flows.metrics.base import real_samples
from pt_flows.progress import track
from pt_flows.training.noise import generator_at


@dataclass(frozen=True)
class LogDensity:
    """Log-densities of clean samples, and the quantities behind them.

    Attributes:
        values: log p(x | t = 0) in nats, (num,).
        log_z: log Z_0.
        error: Standard error of log Z_0.
        effective_size: Effective number of importance samples at the noisiest level.
        occupancy: Fraction of each label along the chains (T + 1,).
    """

    values: Tensor
    log_z: float
    error: float
    effective_size: float
    occupancy: Tensor


@torch.no_grad()
def log_density(
    method: Any,
    x: Tensor,
    real: Tensor,
    num_importance: int = 10_000,
    num_transitions: int = 50,
    num_chains: int = 1_000,
    seed: int = 0,
    weights: Weights = "ema",
) -> LogDensity:
    """Normalised log-densities: log p(x | 0) = -U(x, 0) - log Z_0, with log Z_0 = log Z_T + log p(0) - log p(T).

    Importance sampling with a Gaussian of the diffused data's means and variances gives Z_T. Averages of p(t | x) over
    chains of the buffer give the fractions p(t) of labels.

    Args:
        method: The method.
        x: Points to measure (num, *event).
        real: Data (n, *event), for the Gaussian.
        num_importance: Number of importance samples.
        num_transitions: Number of transitions of the chains.
        num_chains: Number of chains, from the buffer.
        seed: Seed of all random numbers.
        weights: The averaged weights, or the raw ones.
    """
    rng, T = generator_at(method.device, seed, "log density"), method.num_labels - 1
    with method.energy.fixed(weights) as U:
        a, b = (float(c[T]) for c in method.noising)
        mean, std = a * real.mean(0), (1.1 * (a * a * real.var(0) + b * b)).sqrt()
        log_w = []
        for num in chunks(num_importance, method.chunk):
            z = torch.randn(num, *method.event_shape, generator=rng, device=rng.device)
            log_q = (-0.5 * z.square() - std.log() - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)
            log_w.append(-U(mean + std * z, torch.full((num,), T, device=z.device)) - log_q)
        log_w = torch.cat(log_w).double()
        w = log_w.softmax(0)

        slots = torch.randperm(method.buffer.size, generator=rng, device=rng.device)[:num_chains]
        points, t = method.buffer.read(slots), method.buffer.labels[slots]
        shares = []
        for _ in track(range(num_transitions), "sampling labels"):
            points, t, *_ = method.transition(points, t, rng, weights)
            shares.append(method.log_levels(points, weights).double().softmax(1))
    per_chain = torch.stack(shares).mean(0)
    occupancy = per_chain.mean(0)
    error = per_chain.std(0) / math.sqrt(len(per_chain)) / occupancy
    log_z_T = float(log_w.logsumexp(0)) - math.log(len(log_w))
    log_z = log_z_T + float(occupancy[0].log() - occupancy[T].log())
    effective = 1 / float(w.square().sum())
    total = math.sqrt(1 / effective + float(error[0]) ** 2 + float(error[T]) ** 2)
    return LogDensity(-method.clean_energy(x, weights) - log_z, log_z, total, effective, occupancy)


def chunks(total: int, size: int) -> list[int]:
    """Sizes of pieces that add up to a total.

    Example:
        >>> chunks(7, 3)
        [3, 3, 1]
    """
    return [min(size, total - done) for done in range(0, total, size)]


def density(ckpt: str, n: AtLeastTwo = 1_000, seed: int = 0, weights: Weights = "ema", device: str = "auto") -> None:
    """Print the log-densities of test samples at label 0 under a diffusion-assisted energy-based model.

    If the model includes noise on the data, the samples have it too.

    Args:
        ckpt: A checkpoint in its run folder, a run folder, or last / best of the newest run.
        n: Number of test samples.
        seed: Seed of chains and importance samples.
        weights: The averaged weights, or the raw ones of the last iteration.
        device: Device to compute on; auto uses a GPU if there is one.
    """
    run, method = load_energy(ckpt, device)
    if not isinstance(method, HasLevels):
        wanted, got = "a method with noise levels, such as DAEBM", type(method).__name__
        raise UserError(f"{run.checkpoint}: expected {wanted}, got {got}. Give another checkpoint")
    data = run.data()
    x = with_model_noise(method, real_samples(data, n), seed, "real")
    real = with_model_noise(method, data.sample(2_000, generator_at("cpu", "density")), seed, "training")
    found = log_density(method, x, real, seed=seed, weights=weights)
    dim = math.prod(method.event_shape)
    shares = found.occupancy * method.num_labels
    mean, error = found.values.mean(), found.values.std() / math.sqrt(n)
    print(f"log-density of {n} test samples: {mean:.4f} nats with standard error {error:.4f}")
    print(f"log Z_0: {found.log_z:.4f} with standard error {found.error:.4f}")
    if len(method.event_shape) == 3:
        bits = (-float(mean) / dim + math.log(127.5)) / math.log(2)
        print(f"as bits per dimension of images with 256 levels: {bits:.3f} (the density is not dequantised)")
    print(f"shares of labels: {shares.min():.2f} to {shares.max():.2f} of the uniform one")
    print(f"effective importance samples at the noisiest level: {found.effective_size:.0f} of 10000")
    law: Any = getattr(data, "law", None)
    if hasattr(law, "log_prob") and not method.data_noise:
        print(f"true log-density: {law.log_prob(x.cpu()).mean():.4f} nats")
