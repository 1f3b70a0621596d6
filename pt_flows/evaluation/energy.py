"""What a trained energy is good for beside samples: long chains, log-densities, outliers, sums of energies."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor

from pt_flows.callbacks.pictures import save_grid
from pt_flows.contracts import EnergyNet, Weights
from pt_flows.data.base import FlowData
from pt_flows.data.images import as_float
from pt_flows.errors import UserError
from pt_flows.evaluation.load import data_of_run, device_named, load_named
from pt_flows.functional.langevin import mgms
from pt_flows.methods.energies.base import EnergyModule
from pt_flows.methods.energies.da_ebm import DAEBM
from pt_flows.methods.energies.improved_cd import ImprovedCD
from pt_flows.progress import track
from pt_flows.training.noise import generator_at


def load_energy(ckpt: str, device: str = "auto") -> tuple[Path, EnergyModule]:
    """The checkpoint that a command is given, and its energy-based model.

    Raises:
        UserError: It holds another kind of method.
    """
    path, module = load_named(ckpt)
    if not isinstance(module, EnergyModule):
        raise UserError(f"{path} holds {type(module).__name__}, which has no energy; take one of an energy-based model")
    return path, module.to(device_named(device))


def real_samples(data: FlowData, num: int) -> Tensor:
    """The first `num` samples of the test split, as methods see them.

    Raises:
        UserError: The split has fewer.
    """
    x = data.reference("test", num)
    return as_float(x) if x.dtype == torch.uint8 else x


def with_model_noise(module: EnergyModule, x: Tensor, seed: int, name: str) -> Tensor:
    """Samples on the module's device, with the noise on the data that the model includes.

    Args:
        module: The model.
        x: Clean samples (n, *event).
        seed: Seed of the noise.
        name: Name of the samples: others get other noise.
    """
    return module.with_data_noise(x.to(module.device), generator_at(module.device, seed, "data noise", name))


# ------------------------------------------------------------------------------------------------------- composition


class SumEnergy(EnergyNet):
    """U_1 + U_2: the product of two densities.

    Args:
        first: U_1.
        second: U_2.
    """

    def __init__(self, first: EnergyNet, second: EnergyNet) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.event_shape, self.takes_labels = first.event_shape, first.takes_labels

    def parts(self, x: Tensor) -> Tensor:
        """All energies of both (B, S_1 + S_2)."""
        return torch.cat([self.first.parts(x), self.second.parts(x)], 1)

    def forward(self, *args: Tensor) -> Tensor:
        """U (B,) at points, and labels where both take them."""
        return self.first(*args) + self.second(*args)


def compose(module: EnergyModule, other: EnergyModule) -> EnergyModule:
    """The first model with the sum of both energies, sampled as the first one is.

    Improved contrastive divergence then takes half its step, as its authors do.

    Raises:
        UserError: The two do not work on the same points and labels.
    """
    kinds = [(m.energy.event_shape, getattr(m, "num_labels", 0)) for m in (module, other)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"--plus: the energies do not add up: samples of shape {kinds[0][0]} and {kinds[1][0]}, {kinds[0][1]} and "
            f"{kinds[1][1]} labels; take two models of the same data shape and levels"
        )
    module.ema.network = SumEnergy(module.ema.network, other.ema.network)
    module.energy = SumEnergy(module.energy, other.energy)
    if isinstance(module, ImprovedCD):
        module.step_size /= 2
    return module


# --------------------------------------------------------------------------------------------------------- long chains


def walk_far(
    module: EnergyModule, data: FlowData, num_chains: int, num_steps: int, target: Path, seed: int, weights: Weights
) -> None:
    """Chains from real samples, far beyond the length of training: a picture over time, and a table beside it.

    A calibrated model stays at the data: energies keep their level, images stay images. Where the model includes noise
    on the data, chains start from noised samples. The picture shows them denoised if the model denoises its samples.

    Args:
        module: The model, on its device.
        data: Where chains start: the first samples of the test split.
        num_chains: How many chains.
        num_steps: Langevin steps of each, at label 0 where there are labels.
        target: PNG to write; the table gets its name with .csv.
        seed: Of the chains' noise.
        weights: Averaged or raw.
    """
    start = with_model_noise(module, real_samples(data, num_chains), seed, "chains")
    real = module.clean_energy(with_model_noise(module, real_samples(data, 1000), seed, "real"), weights)
    rng, x = generator_at(module.device, seed, "long run"), start
    stops = sorted({0, num_steps, *(min(num_steps, round(10 ** (i / 2))) for i in range(20))})
    rows, shown = [], [module.finished(start, weights)]
    chain, _ = module.walk(x, 0, rng, weights)
    rows.append(describe(0, x, start, chain.energy, torch.ones(())))
    stretches = [(a, b, done) for a, b in zip(stops, stops[1:], strict=False) for done in range(a, b, 100)]
    accepted, steps = torch.zeros((), device=module.device), 0
    for _, stop, done in track(stretches, "walking"):
        num = min(100, stop - done)
        chain, acceptance = module.walk(x, num, rng, weights)
        x, accepted, steps = chain.x, accepted + num * acceptance.mean(), steps + num
        if done + num == stop:
            rows.append(describe(stop, x, start, chain.energy, accepted / steps))
            shown.append(module.finished(x, weights))
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
    if x.dim() == 5:
        save_grid(x.flatten(0, 1), target, columns=x.shape[1])
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * x.shape[1], 2.9), layout="constrained")
    centre, half = x.flatten(0, 1).mean(0), 1.1 * float((x - x.flatten(0, 1).mean(0)).abs().max())
    for i, axis in enumerate(figure.subplots(1, x.shape[1], squeeze=False)[0]):
        axis.scatter(*x[:, i].T, s=5, c="#d95f02", linewidths=0)
        limits = [(float(c) - half, float(c) + half) for c in centre]
        axis.set(xlim=limits[0], ylim=limits[1], xticks=[], yticks=[], aspect="equal", title=f"{stops[i]} steps")
    figure.savefig(target, dpi=100)


# ---------------------------------------------------------------------------------------------------------- log-density


@dataclass(frozen=True)
class LogDensity:
    """Log-densities of clean samples, and how they were found.

    Attributes:
        values: log p(x | t = 0) in nats, (num,).
        log_z: log Z_0.
        error: Standard error of log Z_0.
        effective_size: Of the importance samples at the noisiest level.
        occupancy: Share of each label along the chains (T + 1,).
    """

    values: Tensor
    log_z: float
    error: float
    effective_size: float
    occupancy: Tensor


@torch.no_grad()
def log_density(
    module: DAEBM,
    x: Tensor,
    real: Tensor,
    num_importance: int = 10_000,
    num_transitions: int = 50,
    num_chains: int = 1_000,
    seed: int = 0,
    weights: Weights = "ema",
) -> LogDensity:
    """Normalised log-densities: log p(x | 0) = -U(x, 0) - log Z_0, with log Z_0 = log Z_T + log p(0) - log p(T).

    Z_T comes from importance sampling with a Gaussian of the diffused data's means and variances; the shares p(t) of
    labels from chains of the buffer, as averages of p(t | x).

    Args:
        module: The model.
        x: Points to measure (num, *event).
        real: Data (n, *event), for the Gaussian.
        num_importance: Importance samples.
        num_transitions: Transitions of the chains.
        num_chains: Chains, from the buffer.
        seed: Of all randomness.
        weights: Averaged or raw.
    """
    rng, T = generator_at(module.device, seed, "log density"), module.num_labels - 1
    with module.fixed(weights) as U:
        a, b = (float(c[T]) for c in module.noising)
        mean, std = a * real.mean(0), (1.1 * (a * a * real.var(0) + b * b)).sqrt()
        log_w = []
        for num in chunks(num_importance, module.chunk):
            z = torch.randn(num, *module.event_shape, generator=rng, device=rng.device)
            log_q = (-0.5 * z.square() - std.log() - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)
            log_w.append(-U(mean + std * z, torch.full((num,), T, device=z.device)) - log_q)
        log_w = torch.cat(log_w).double()
        w = log_w.softmax(0)

        slots = torch.randperm(module.buffer.size, generator=rng, device=rng.device)[:num_chains]
        points, t = module.buffer.read(slots), module.buffer.labels[slots]
        shares = []
        for _ in track(range(num_transitions), "sampling labels"):
            s, K = module.step_sizes.values, module.num_langevin_steps
            points, t, *_ = mgms(U, points, t, s, K, rng, ratio=module.ratio)
            shares.append(module.log_levels(points, weights).double().softmax(1))
    per_chain = torch.stack(shares).mean(0)
    occupancy = per_chain.mean(0)
    error = per_chain.std(0) / math.sqrt(len(per_chain)) / occupancy
    log_z_T = float(log_w.logsumexp(0)) - math.log(len(log_w))
    log_z = log_z_T + float(occupancy[0].log() - occupancy[T].log())
    effective = 1 / float(w.square().sum())
    total = math.sqrt(1 / effective + float(error[0]) ** 2 + float(error[T]) ** 2)
    return LogDensity(-module.clean_energy(x, weights) - log_z, log_z, total, effective, occupancy)


def chunks(total: int, size: int) -> list[int]:
    """Sizes of pieces that add up to a total.

    Example:
        >>> chunks(7, 3)
        [3, 3, 1]
    """
    return [min(size, total - done) for done in range(0, total, size)]


def density(ckpt: str, n: int = 1_000, seed: int = 0, weights: Weights = "ema", device: str = "auto") -> None:
    """Log-densities that a diffusion-assisted energy-based model gives to test samples at label 0.

    Where the model includes noise on the data, the samples have it too.

    Args:
        ckpt: A checkpoint in its run folder, a run folder, or last / best of the newest run.
        n: How many test samples.
        seed: Seed of chains and importance samples.
        weights: The moving average, or the raw weights of the last iteration.
        device: Where to compute; auto takes a GPU if there is one.
    """
    if n < 2:
        raise UserError(f"--n must be at least 2, got {n}")
    path, module = load_energy(ckpt, device)
    if not isinstance(module, DAEBM):
        raise UserError(
            f"{path} holds {type(module).__name__}, whose normaliser is not known; log-densities need the noise levels "
            "of DAEBM"
        )
    data = data_of_run(path)
    x = with_model_noise(module, real_samples(data, n), seed, "real")
    real = with_model_noise(module, data.sample(2_000, generator_at("cpu", "density")), seed, "training")
    found = log_density(module, x, real, seed=seed, weights=weights)
    dim = math.prod(module.event_shape)
    shares = found.occupancy * module.num_labels
    mean, error = found.values.mean(), found.values.std() / math.sqrt(n)
    print(f"log-density of {n} test samples: {mean:.4f} nats with standard error {error:.4f}")
    print(f"log Z_0: {found.log_z:.4f} with standard error {found.error:.4f}")
    if len(module.event_shape) == 3:
        bits = (-float(mean) / dim + math.log(127.5)) / math.log(2)
        print(f"as bits per dimension of images with 256 levels: {bits:.3f} (the density is not dequantised)")
    print(f"shares of labels: {shares.min():.2f} to {shares.max():.2f} of the uniform one")
    print(f"effective importance samples at the noisiest level: {found.effective_size:.0f} of 10000")
    law: Any = getattr(data, "law", None)
    if hasattr(law, "log_prob") and not module.data_noise:
        print(f"true log-density: {law.log_prob(x.cpu()).mean():.4f} nats")


# ------------------------------------------------------------------------------------------------------------- outliers


def outlier_sets(x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
    """Points that are not data: uniform noise, interpolations of pairs, and for images constant ones.

    Args:
        x: Data (num, *event), on the generator's device.
        rng: Draws noise, pairs and colours.
    """
    images = x.dim() == 4
    low, high = (-1.0, 1.0) if images else (x.amin(0), x.amax(0))
    uniform = lambda *shape: torch.rand(*shape, generator=rng, device=x.device)
    sets = {
        "uniform noise": low + (high - low) * uniform(*x.shape),
        "interpolations": (x + x[torch.randperm(len(x), generator=rng, device=x.device)]) / 2,
    }
    if images:
        sets["constant images"] = (2 * uniform(len(x), x.shape[1], 1, 1) - 1).expand_as(x)
    return sets


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Probability that a sample of the data scores higher than an outlier, ties counted half; from ranks alone.

    It is Mann and Whitney's statistic over the number of pairs, and not a number where a score is none.

    Example:
        >>> auroc(torch.tensor([101.0, 100.0]), torch.tensor([50.0, 100.0]))
        0.875
    """
    n, m = len(inside), len(outside)
    ranks = rankdata(torch.cat([inside, outside]).double().cpu().numpy())
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def ood(
    ckpt: str,
    against: FlowData | None = None,
    n: int = 1_000,
    seed: int = 0,
    weights: Weights = "ema",
    device: str = "auto",
) -> None:
    """Tell test samples of a model's data from outliers by its energy, and print the area under the ROC curve.

    Outliers are uniform noise, averages of two samples, constant images, and the test split of another data set. The
    score is -U(x), at label 0 where there are labels; for DA-EBM also the log-density over all levels. Where the model
    includes noise on the data, samples and outliers have it too.

    Args:
        ckpt: A checkpoint in its run folder, a run folder, or last / best of the newest run.
        against: Another data set of the same shape, such as FashionMNIST.
        n: How many samples of each kind.
        seed: Seed of noise and pairs.
        weights: The moving average, or the raw weights of the last iteration.
        device: Where to compute; auto takes a GPU if there is one.
    """
    if n < 2:
        raise UserError(f"--n must be at least 2, got {n}")
    path, module = load_energy(ckpt, device)
    data = data_of_run(path)
    inside = real_samples(data, n).to(module.device)
    sets = outlier_sets(inside, generator_at(module.device, seed, "outliers"))
    if against is not None:
        if tuple(against.event_shape) != tuple(module.event_shape):
            raise UserError(
                f"--against: {type(against).__name__} has samples of shape {tuple(against.event_shape)}, the model's "
                f"are {tuple(module.event_shape)}; take data of one shape"
            )
        against.prepare_data()
        against.setup("test")
        sets[f"{type(against).__name__} test"] = real_samples(against, n).to(module.device)
    scores = {"-U(x, 0)" if isinstance(module, DAEBM) else "-U(x)": lambda x: -module.clean_energy(x, weights)}
    if isinstance(module, DAEBM):
        scores["log Σ exp -U(x, t)"] = lambda x: module.log_levels(x, weights).logsumexp(1)
    inside = with_model_noise(module, inside, seed, "real")
    sets = {name: with_model_noise(module, outside, seed, name) for name, outside in sets.items()}
    print(f"AUROC, {n} test samples of {type(data).__name__} against as many outliers")
    print(f"  {'outliers':<24}" + "".join(f"{name:>22}" for name in scores))
    for name, outside in sets.items():
        values = [auroc(score(inside), score(outside)) for score in scores.values()]
        print(f"  {name:<24}" + "".join(f"{value:>22.3f}" for value in values))
