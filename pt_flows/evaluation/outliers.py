"""Outliers, which energies distinguish from test samples."""

import torch
from scipy.stats import rankdata
from torch import Tensor

from pt_flows.bounds import AtLeastTwo
from pt_flows.contracts import HasLevels, Weights
from pt_flows.data.base import FlowData
from pt_flows.errors import UserError
from pt_flows.evaluation.energies import load_energy, real_samples, with_model_noise
from pt_flows.training.noise import generator_at


def outlier_sets(x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
    """Points that are not data: uniform noise, interpolations of pairs, and for images constant ones.

    Args:
        x: Data (num, *event), on the generator's device.
        rng: Generator of noise, pairs and colours.
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

    It is Mann and Whitney's statistic over the number of pairs, and NaN if a score is NaN.

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
    n: AtLeastTwo = 1_000,
    seed: int = 0,
    weights: Weights = "ema",
    device: str = "auto",
) -> None:
    """Tell test samples of a model's data from outliers by its energy, and print the area under the ROC curve.

    Outliers are uniform noise, averages of two samples, constant images, and the test split of another data set. The
    score is -U(x), at label 0 if there are labels; for DA-EBM also the log-density over all levels. If the model
    includes noise on the data, samples and outliers have it too.

    Args:
        ckpt: A checkpoint in its run folder, a run folder, or last / best of the newest run.
        against: Another data set of the same shape, such as FashionMNIST.
        n: Number of samples of each kind.
        seed: Seed of noise and pairs.
        weights: The averaged weights, or the raw ones of the last iteration.
        device: Device to compute on; auto uses a GPU if there is one.
    """
    run, method = load_energy(ckpt, device)
    data = run.data()
    inside = real_samples(data, n).to(method.device)
    sets = outlier_sets(inside, generator_at(method.device, seed, "outliers"))
    if against is not None:
        if tuple(against.event_shape) != tuple(method.event_shape):
            wanted, got = tuple(method.event_shape), f"{type(against).__name__} of {tuple(against.event_shape)}"
            raise UserError(f"--against: expected samples of shape {wanted}, got {got}. Use data of the model's shape")
        against.prepare_data()
        against.setup("test")
        sets[f"{type(against).__name__} test"] = real_samples(against, n).to(method.device)
    scores = {"-U(x, 0)" if isinstance(method, HasLevels) else "-U(x)": lambda x: -method.clean_energy(x, weights)}
    if isinstance(method, HasLevels):
        scores["log Σ exp -U(x, t)"] = lambda x: method.log_levels(x, weights).logsumexp(1)
    inside = with_model_noise(method, inside, seed, "real")
    sets = {name: with_model_noise(method, outside, seed, name) for name, outside in sets.items()}
    print(f"AUROC, {n} test samples of {type(data).__name__} against as many outliers")
    print(f"  {'outliers':<24}" + "".join(f"{name:>22}" for name in scores))
    for name, outside in sets.items():
        values = [auroc(score(inside), score(outside)) for score in scores.values()]
        print(f"  {name:<24}" + "".join(f"{value:>22.3f}" for value in values))
