"""Metrics of predictions: accuracy and risk on fixed samples, clean or under an attack."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.contracts import Split
from pt_flows.errors import UserError
from pt_flows.functional.attacks import Attack
from pt_flows.functional.prediction import prediction_losses, right_fractions
from pt_flows.metrics.base import SECOND, RealData, SampleMetric, count_name, full_precision
from pt_flows.training.distributed import share_of
from pt_flows.training.noise import generator_at

CHUNK = 500
"""Samples that are predicted at once."""


class PredictionMetric(SampleMetric):
    """Base of metrics of predictions on fixed samples of a split with targets.

    The name has the attack, the number of samples and their split. `..._floor` is the same number for the constant
    prediction that is best on these samples.

    Args:
        attack: Perturbs every sample so that its loss rises; None measures clean samples.
        num_real: Number of samples, the first ones of the split, or for images of a random order; None for all.
    """

    held_out = True
    needs_samples = False
    split: Split = "test"
    what: str
    total: Tensor
    count: Tensor

    def __init__(self, attack: Attack | None = None, num_real: Count | None = None) -> None:
        super().__init__()
        self.attack, self.num_real, self.skip = attack, num_real, 0
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def key(self) -> str:
        """Name such as `accuracy_10k_test`, or `robust_accuracy_linf_0.2_pgd10_1k_test`."""
        name = f"robust_{self.what}_{self.attack.name}" if self.attack is not None else self.what
        return f"{name}_{count_name(self.num_real) if self.num_real else 'all'}_{self.split}{SECOND * (self.skip > 0)}"

    def use_other_samples(self) -> None:
        """Take the next samples of the test split, because the training split is known to the method.

        Raises:
            UserError: All samples are in use.
        """
        if self.num_real is None:
            got = "null. Set it, so that choices are made with other samples of the test split"
            raise UserError(f"{type(self).__name__}.num_real: expected a number of samples, got {got}")
        self.skip = self.num_real

    @abstractmethod
    def scores(self, predictions: Tensor, y: Tensor) -> Tensor:
        """Scores (B,) of predictions for targets."""

    @abstractmethod
    def floor(self, y: Tensor) -> float:
        """The score of the best constant prediction of targets."""

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Read the samples and their targets."""
        source: Any = data
        if not hasattr(data, "labelled") or not (source.num_classes or source.real_targets):
            wanted = "data with targets, such as MNIST or LinearRegression"
            raise UserError(f"{type(self).__name__}: expected {wanted}, got {type(data).__name__}. Use other metrics")
        end = None if self.num_real is None else self.skip + self.num_real
        if self.split == "test" and end is not None and not source.real_targets:
            x, y = source.held_out(end)
        else:
            x, y = source.labelled(self.split)
            if not source.real_targets:
                order = torch.randperm(len(x), generator=generator_at("cpu", "labelled", self.split))[:end]
                x, y = x[order], y[order]
        if end is not None and len(x) < end:
            got = f"{len(x)} in the {self.split} split. Lower num_real"
            raise UserError(f"{type(self).__name__}.num_real: expected {end} samples, got {got}")
        self.x, self.y = x[self.skip : end], y[self.skip : end]
        self.least = self.floor(self.y)

    def update_predictor(self, predict: Callable[[Tensor], Tensor]) -> None:
        """Score the predictions of this rank's part of the samples."""
        device, xs, ys = self.total.device, self.x.split(CHUNK), self.y.split(CHUNK)
        with full_precision(device):
            for i in share_of(len(xs)):
                x, y = xs[i].to(device, torch.get_default_dtype()), ys[i].to(device)
                if self.attack is not None:
                    x = self.attack(lambda u, y=y: prediction_losses(predict(u), y), x)
                with torch.no_grad():
                    self.total += self.scores(predict(x), y).double().sum()
                self.count += len(x)

    def update(self, x: Tensor) -> None:
        """Ignore generated samples."""

    def compute(self) -> dict[str, float]:
        """The mean score, and that of the best constant; empty for methods that predict nothing."""
        return {self.key: float(self.total / self.count), f"{self.key}_floor": self.least} if self.count else {}


class Accuracy(PredictionMetric):
    """Fraction of right classes, in [0, 1]; with an attack, of samples whose class stays right under it.

    The attack raises the cross-entropy. The floor is the fraction of the most frequent class.

    Args:
        attack: Perturbs every sample; None for the clean accuracy.
        num_real: Number of samples; None for all of the split.
    """

    higher_is_better = True
    what = "accuracy"

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Read the samples and their labels."""
        if getattr(data, "real_targets", False):
            got = f"{type(data).__name__}, whose targets are values. Use Risk"
            raise UserError(f"Accuracy: expected data with classes, got {got}")
        super().prepare(data, num_samples)

    def scores(self, predictions: Tensor, y: Tensor) -> Tensor:
        """1 for a right class and 0 for a wrong one; with steps the fraction of right ones."""
        return right_fractions(predictions, y)

    def floor(self, y: Tensor) -> float:
        """The fraction of the most frequent class."""
        return float(y.flatten().bincount().max() / y.numel())


class Risk(PredictionMetric):
    """Mean loss: the squared error of values, or the cross-entropy of classes in nats; with an attack, the robust risk.

    The floor is the loss of the best constant: the variance of the targets, or the entropy of the classes.

    Args:
        attack: Perturbs every sample; None for the clean risk.
        num_real: Number of samples; None for all of the split.
    """

    what = "risk"

    def scores(self, predictions: Tensor, y: Tensor) -> Tensor:
        """Losses."""
        return prediction_losses(predictions, y)

    def floor(self, y: Tensor) -> float:
        """The variance of values, or the entropy of classes in nats."""
        if y.is_floating_point():
            return float(y.double().var(correction=0))
        p = y.flatten().bincount().double() / y.numel()
        return float(-torch.special.xlogy(p, p).sum())
