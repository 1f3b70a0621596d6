r"""Adversarial training of a classifier or regressor; without an attack, plain supervised training.

    inner   δ_i = attack(ℓ_θ(·, y_i), x_i)                       δ is a constant of the outer step
    outer   θ ← θ - η ∇_θ (1/B) Σ_i ℓ_θ(x_i + δ_i, y_i) + κ ‖∇_x ℓ_θ(x_i, y_i)‖²
    sparse  θ ← soft threshold of θ by η λ                        the proximal step of λ ‖θ‖₁

ℓ is the squared error of values, or the cross-entropy of logits. Xing, Song, Cheng 2021, On the Generalization
Properties of Adversarial Training, arXiv:2008.06631: a smoothed attack converges to the least adversarial risk, and in
high dimensions an L1 penalty restores consistency. Gu, Guo 2021, An SDE Framework for Adversarial Training,
arXiv:2105.08037v1: with an attack of K steps of size η_I and small η_I K, adversarial training follows the same flow
as the penalty with κ = η_I K / 2.

Departures: the bodies of both papers could not be read. Their abstracts fix the claims above, and the equations are
derived. Attacks see the network in evaluation mode.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pt_flows.bounds import NonNegative
from pt_flows.contracts import Batch, Terms, Weights
from pt_flows.functional.attacks import Attack, input_gradient_penalty
from pt_flows.functional.prediction import prediction_losses
from pt_flows.loop.method import Method
from pt_flows.training.predictor import Predictor, check_targets


class AdversarialTraining(Method):
    """Supervised training, on attacked data if there is an attack.

    Args:
        predictor: The classifier or regressor θ, with the weight λ of its L1 penalty.
        attack: Finds δ, such as PGD, FastGradient or Ascent; None trains on the data themselves.
        input_gradient_weight: κ.
    """

    def __init__(
        self, predictor: Predictor, attack: Attack | None = None, input_gradient_weight: NonNegative = 0.0
    ) -> None:
        super().__init__()
        self.predictor, self.attack, self.input_gradient_weight = predictor, attack, input_gradient_weight

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Take one outer step."""
        ((x, y),) = minibatches
        terms: Terms = {}

        u = x
        if self.attack is not None:
            with self.predictor.fixed("raw") as network:
                u = self.attack(lambda v: prediction_losses(network(v), y), x)  # inner
                with torch.no_grad():
                    terms["loss_clean"] = prediction_losses(network(x), y).mean()

        loss = terms["loss"] = prediction_losses(self.predictor(u), y).mean()  # outer
        if self.input_gradient_weight:
            slope = input_gradient_penalty(lambda v: prediction_losses(self.predictor(v), y), x)
            terms["input_gradient"] = slope
            loss = loss + self.input_gradient_weight * slope
        self.predictor.step(loss)  # and sparse
        return {name: value.detach() for name, value in terms.items()}

    def predict(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """Logits or values for data (B, *event), differentiable in x."""
        return self.predictor.predict(x, weights)

    def setup(self, stage: str) -> None:
        """Check that the data have targets of the predictor's kind."""
        super().setup(stage)
        trainer: Any = self.trainer
        check_targets(getattr(trainer, "datamodule", None), self.predictor)
