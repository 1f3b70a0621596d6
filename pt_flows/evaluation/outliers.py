"""Outliers, which energies distinguish from test samples."""

from pt_flows.bounds import AtLeastTwo
from pt_flows.contracts import HasLevels, Weights
from pt_flows.data.base import FlowData
from pt_flows.evaluation.energies import load_energy, with_model_noise
from pt_flows.metrics.base import real_samples
from pt_flows.metrics.outliers import auroc, other_samples, outlier_sets
from pt_flows.training.noise import generator_at


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
