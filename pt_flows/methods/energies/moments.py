"""Moments of the data, and a check that the noise levels of a model suit them."""

import math
from typing import Any

from pt_flows.contracts import Shape
from pt_flows.errors import UserError, warn
from pt_flows.functional.noising import Gaussian, Noising, enough_levels, level_distances
from pt_flows.training.noise import generator_at

NUM_MOMENTS = 20_000
"""Number of training samples from which the moments are computed."""

MOST_NATS = 5.0
"""Largest distance between neighbouring levels that chains cross often enough."""


def moments(data: Any, data_noise: float, event_shape: Shape, needed: bool) -> Gaussian | None:
    """Mean and covariance of the data with their noise, the same on every process.

    Images have 256 levels only, and count as if they had noise of the levels' width.

    Args:
        data: The data module.
        data_noise: Standard deviation of the noise on the data.
        event_shape: Shape of one sample.
        needed: Whether the model needs moments of all directions; otherwise only a warning uses them.

    Returns:
        The moments; None if they are not needed and the data do not draw single samples.

    Raises:
        UserError: They are needed, and the data do not draw single samples or do not vary in every direction.
    """
    images = len(event_shape) == 3
    try:
        x = data.sample(NUM_MOMENTS, generator_at("cpu", "moments"))
    except (AttributeError, UserError) as error:
        if not needed:
            return None
        wanted, got = "expected data that draw single samples", type(data).__name__
        raise UserError(f"model.base: {wanted}, got {got}. Define its sample, or set model.base to none") from error
    rough = not needed and x[0].numel() > 1_024  # it would take a minute
    x = x[:10_000].float() if rough else x.double()
    gaussian = Gaussian.fitted(x, math.hypot(data_noise, 1 / 255 if images else 0.0))
    if needed and float(gaussian.variances.min()) < 1e-4 * float(gaussian.variances.max()):
        got = f"a standard deviation of {float(gaussian.variances.min().sqrt()):.2g} in one"
        wanted, advice = "data that vary in every direction", "Set model.data_noise, such as 0.3 for images"
        raise UserError(f"model.base: expected {wanted}, got {got}. {advice}")
    return gaussian


def check_levels(data: Gaussian, noising: Noising, increments: tuple[float, float]) -> None:
    """Warn if neighbouring levels are too far apart for chains to jump between them.

    Args:
        data: Moments of the data.
        noising: The levels.
        increments: First and last increment of the noise schedule.
    """
    nats, T = level_distances(data, noising), len(noising[0]) - 1
    if float(nats.max()) <= MOST_NATS:
        return
    finer = enough_levels(data, T, *increments, MOST_NATS)
    advice = "raise model.data_noise" if finer is None else (
        f"set model.num_levels to {finer[0]}, model.first_increment to {finer[1]:.3g} and model.last_increment to "
        f"{finer[2]:.3g}, or raise model.data_noise"
    )  # fmt: skip
    warn(
        f"model.num_levels: expected noise levels at most {MOST_NATS:g} nats apart, got {float(nats.min()):.2g} to "
        f"{float(nats.max()):.3g} with {T} levels. Chains cannot jump so far: {advice}"
    )
