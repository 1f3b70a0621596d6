"""Calibration of scores: logistic regression from one raw score to the log-odds of "real" against "generated"."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

RIDGE = 1e-6
"""Weight of ½ a² beside the mean cross entropy, a the slope per standard deviation of the scores.

Scores that a threshold separates have no best slope: the steeper, the better. The ridge ends at a finite one, with
a of order log(1 / RIDGE), so odds at one standard deviation from the threshold stay below about 10⁶. It changes an
ordinary slope by less than one part in 10⁴, which is below the sampling error for any number of scores in use.
"""
LONGEST_RUN = 200
"""Largest number of Newton steps; ten are usual, and separated scores need some thirty."""


class Calibration(NamedTuple):
    """The line of log-odds, log P(real | score) - log P(generated | score) = slope · score + intercept.

    Attributes:
        slope: Log-odds per unit of the raw score.
        intercept: Log-odds at score 0, for equally many real and generated samples.
        spread: Log-odds per standard deviation of the scores of both sides, which does not depend on their scale.
    """

    slope: float
    intercept: float
    spread: float

    def __call__(self, scores: Tensor) -> Tensor:
        """Log-odds of raw scores, of any shape."""
        return self.slope * scores + self.intercept


def calibrate(real: Float[Tensor, " N"], generated: Float[Tensor, " M"]) -> Calibration:
    """Fit log-odds to raw scores by logistic regression. Both sides weigh the same, however many scores they have.

    The log-odds of the best line are those of the densities if the score is a logit up to scale and shift, such as the
    raw output of a discriminator. Newton's method in float64 on standardised scores, with steps halved until the
    penalised loss falls.

    Args:
        real: Scores of real samples, finite and not all equal to those of the other side.
        generated: Scores of generated samples.

    Example:
        >>> torch.manual_seed(0) and None
        >>> line = calibrate(torch.randn(100_000) + 1, torch.randn(100_000))  # the log ratio of densities is x - ½
        >>> round(line.slope, 1), round(line.intercept, 1)
        (1.0, -0.5)
    """
    scores = torch.cat([real, generated]).double()
    labels = torch.ones_like(scores)
    labels[len(real) :] = 0
    weights = 0.5 * (labels / len(real) + (1 - labels) / len(generated))
    mean = (weights * scores).sum()
    std = (weights * (scores - mean).square()).sum().sqrt()
    columns = torch.stack([(scores - mean) / std, torch.ones_like(scores)], 1)
    ridge = torch.tensor([RIDGE, 0.0]).to(scores)

    def loss(line: Tensor) -> Tensor:
        logits = columns @ line
        return (weights * (softplus(logits) - labels * logits)).sum() + 0.5 * (ridge * line.square()).sum()

    line = torch.zeros(2).to(scores)
    for _ in range(LONGEST_RUN):
        p = (columns @ line).sigmoid()
        gradient = columns.T @ (weights * (p - labels)) + ridge * line
        curvature = columns.T @ (columns * (weights * p * (1 - p))[:, None]) + ridge.diag()
        step = torch.linalg.solve(curvature, gradient)
        scale, before = 1.0, loss(line)
        while scale > 1e-10 and loss(line - scale * step) > before:
            scale /= 2
        line = line - scale * step
        if float(gradient @ step) < 1e-16:  # the step squared it
            break
    spread, shift = line.tolist()
    return Calibration(spread / float(std), shift - spread * float(mean) / float(std), spread)
