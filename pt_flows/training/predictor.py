"""The player that predicts: a classifier or a regressor."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from pt_flows.bounds import DecayRates, NonNegative, Positive
from pt_flows.contracts import OptimizerFactory, PredictorNet, Shape, Weights
from pt_flows.errors import UserError
from pt_flows.functional.attacks import soft_threshold
from pt_flows.training.player import Player, adam
from pt_flows.training.requirements import check_network
from pt_flows.training.schedules import Schedule


@final
class Predictor(Player[PredictorNet]):
    """A classifier or a regressor: samples to logits or values.

    Args:
        network: The network.
        optimizer: Makes the optimizer from the parameters. Its state is kept between iterations.
        lr_schedule: Factor of the learning rate over the run.
        ema_decay: Decay of the average of the weights, or a list for several averages; None keeps no average.
        clip_norm: Longest gradient; None for no bound.
        l1_weight: λ of a penalty λ ‖θ‖₁ on all weights but biases, by a proximal step: every optimizer step is followed
            by a soft threshold of (learning rate) · λ. It needs SGD without momentum, whose steps have the length of
            the learning rate.
    """

    def __init__(
        self,
        network: PredictorNet,
        optimizer: OptimizerFactory = adam,
        lr_schedule: Schedule = Schedule(),  # noqa: B008  immutable
        ema_decay: DecayRates = 0.999,
        clip_norm: Positive | None = None,
        l1_weight: NonNegative = 0.0,
    ) -> None:
        check_network("model.predictor.network", network, PredictorNet)
        network.register_forward_hook(_check_predictions)
        super().__init__(network, optimizer, lr_schedule, ema_decay, clip_norm)
        self.l1_weight = l1_weight

    @property
    def event_shape(self) -> Shape:
        """Shape of one sample."""
        return self.network.event_shape

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for values."""
        return self.network.num_classes

    def bind(self, role: str) -> Optimizer | None:
        """Make the optimizer.

        Raises:
            UserError: There is an L1 weight, and the optimizer is not SGD without momentum.
        """
        optimizer = super().bind(role)
        if optimizer is not None and self.l1_weight and not steps_by_rate(optimizer):
            wanted = "SGD without momentum for an l1_weight, as its threshold is the learning rate times the weight"
            got = type(optimizer).__name__ + (" with momentum" if type(optimizer) is torch.optim.SGD else "")
            advice = "Use torch.optim.SGD, or set l1_weight to 0"
            raise UserError(f"model.{role}.optimizer: expected {wanted}, got {got}. {advice}")
        return optimizer

    def apply_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Take one optimizer step along given gradients, then the proximal step of the L1 penalty."""
        super().apply_gradients(gradients)
        if self.l1_weight:
            with torch.no_grad():
                for group in self.bound.param_groups:
                    for parameter in group["params"]:
                        if parameter.dim() > 1:
                            parameter.copy_(soft_threshold(parameter, group["lr"] * self.l1_weight))

    def predict(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """Predictions for data (B, *event) with the network in evaluation mode, 500 samples at a time."""
        with self.fixed(weights) as network:
            return torch.cat([network(part) for part in x.split(500)])


def steps_by_rate(optimizer: Optimizer) -> bool:
    """Whether a step is the learning rate times the gradient."""
    return type(optimizer) is torch.optim.SGD and not any(group["momentum"] for group in optimizer.param_groups)


def _check_predictions(network: PredictorNet, inputs: tuple[Any, ...], found: Tensor) -> None:
    num, classes = len(inputs[0]), network.num_classes
    fits = found.shape[0] == num and found.dim() in (2, 3) and found.shape[-1] == classes if classes else False
    if not fits and (classes or tuple(found.shape) != (num,)):
        wanted = f"logits of shape ({num}, {classes})" if classes else f"values of shape ({num},)"
        advice = "Set num_classes to the number of logits, or to 0 for values"
        raise UserError(f"{type(network).__name__}: expected {wanted}, got {tuple(found.shape)}. {advice}")


def check_targets(data: Any, predictor: Predictor) -> None:
    """Check that data have targets of the predictor's kind.

    Raises:
        UserError: They have none, or others.
    """
    if data is None:
        return
    name, wanted = type(data).__name__, 0 if data.real_targets else data.num_classes
    if not data.real_targets and not data.num_classes:
        raise UserError(f"data: expected samples with targets, such as MNIST or LinearRegression, got {name}")
    if predictor.num_classes != wanted:
        what = f"num_classes {wanted}, as {name} has {'classes' if wanted else 'values for targets'}"
        raise UserError(f"model.predictor.network: expected {what}, got {predictor.num_classes}. Set it to {wanted}")
