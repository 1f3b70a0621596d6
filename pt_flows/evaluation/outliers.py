"""Outliers, and the area under the ROC curve between them and test samples."""

from collections.abc import Callable, Mapping

import torch
from scipy.stats import rankdata
from torch import Tensor

from pt_flows.bounds import AtLeastTwo
from pt_flows.contracts import HasLevels, Split, Weights
from pt_flows.data.base import FlowData
from pt_flows.errors import UserError
from pt_flows.evaluation.energies import load_energy, with_model_noise
from pt_flows.metrics.base import RealData, SampleMetric, count_name, real_samples
from pt_flows.metrics.reference import content_hash
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
        "uniform": low + (high - low) * uniform(*x.shape),
        "interpolations": (x + x[torch.randperm(len(x), generator=rng, device=x.device)]) / 2,
    }
    if images:
        sets["constant"] = (2 * uniform(len(x), x.shape[1], 1, 1) - 1).expand_as(x)
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


def other_samples(where: str, data: FlowData, num: int, event_shape: tuple[int, ...]) -> Tensor:
    """Test samples of another data set, which is downloaded if it is missing.

    Args:
        where: The argument that names the data set, for errors.
        data: The data set.
        num: Number of samples.
        event_shape: Shape of a sample of the model.

    Raises:
        UserError: Its samples have another shape, or are too few.
    """
    if tuple(data.event_shape) != tuple(event_shape):
        wanted, got = tuple(event_shape), f"{type(data).__name__} of {tuple(data.event_shape)}"
        raise UserError(f"{where}: expected samples of shape {wanted}, got {got}. Use data of the model's shape")
    data.prepare_data()
    data.setup("test")
    return real_samples(data, num)


NO_OTHERS: Mapping[str, FlowData] = {}
"""No other data sets, the default of `OutlierAUROC`."""


class OutlierAUROC(SampleMetric):
    """Area under the ROC curve of -U(x) between test samples and outliers, in [0, 1]; one half is chance.

    Outliers are uniform noise, averages of two test samples, constant images, and the test splits of other data sets.
    If the model includes noise on the data, samples and outliers have it too. Numbers are `auroc_<outliers>_<n>`, and
    `auroc_<n>` is their mean. Methods without an energy have none.

    Args:
        against: Other data sets of the same shape, each with a name for its number.
        num: n, test samples, and outliers of each kind.
    """

    higher_is_better = True
    split: Split = "test"

    def __init__(self, against: Mapping[str, FlowData] = NO_OTHERS, num: AtLeastTwo = 1_000) -> None:
        super().__init__()
        if taken := sorted({"uniform", "interpolations", "constant"} & set(against)):
            got = f"{taken[0]!r}, which this metric has itself"
            raise UserError(f"OutlierAUROC.against: expected other names, got {got}. Rename it")
        self.against, self.num = dict(against), num
        self.add_state("areas", default=torch.zeros(0), dist_reduce_fx="mean")

    @property
    def key(self) -> str:
        """Name of the mean, such as `auroc_1k`."""
        return f"auroc_{count_name(self.num)}"

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Read test samples and make outliers, the same ones for every run."""
        x = real_samples(data, self.num, where="OutlierAUROC.num")
        sets = outlier_sets(x, generator_at("cpu", "outliers"))
        for name, other in self.against.items():
            sets[name] = other_samples(f"OutlierAUROC.against.{name}", other, self.num, x.shape[1:])
        self.outliers = {name: content_hash(outside) for name, outside in sets.items()}
        self.inside = self.noised(x, "real")
        self.outside = {name: self.noised(outside, name) for name, outside in sets.items()}

    def noised(self, x: Tensor, name: str) -> Tensor:
        """Samples (n, *event) with the noise on the data that the model includes, on the metric's device."""
        noise = torch.randn(x.shape, generator=generator_at("cpu", "data noise", name))
        return (x + self.data_noise * noise).to(self.device)

    def details(self) -> dict[str, str]:
        """The outliers: their mean depends on all sets."""
        n, known = count_name(self.num), self.outliers
        told = {f"auroc_{name}_{n}": digest for name, digest in known.items()}
        return told | {self.key: ", ".join(f"{name} {known[name]}" for name in sorted(known))}

    def update_energy(self, energy: Callable[[Tensor], Tensor]) -> None:
        """Score test samples and outliers by the energy, a function (B, *event) to (B,)."""
        scores = -energy(self.inside)
        self.areas = torch.tensor([auroc(scores, -energy(x)) for x in self.outside.values()], device=self.device)

    def update(self, x: Tensor) -> None:
        """Ignore generated samples."""

    def compute(self) -> dict[str, float]:
        """The areas and their mean; empty for methods without an energy."""
        if not len(self.areas):
            return {}
        n, areas = count_name(self.num), dict(zip(self.outside, self.areas.tolist(), strict=True))
        return {self.key: float(self.areas.mean())} | {f"auroc_{name}_{n}": area for name, area in areas.items()}


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
        outside = other_samples("--against", against, n, method.event_shape)
        sets[f"{type(against).__name__} test"] = outside.to(method.device)
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
