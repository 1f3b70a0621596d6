"""Quantities that tell whether the training of an energy-based model is healthy."""

import torch
from torch import Tensor

from pt_flows.contracts import Terms
from pt_flows.errors import UserError

LONGEST_STEP = 0.1
"""Root mean square of step times gradient per pixel of [-1, 1] above which a sampler oversteps; 0.05 works."""


def watched(u_data: Tensor, u_model: Tensor, x_model: Tensor) -> Terms:
    """Both mean energies, their gap, and for images (B, C, H, W) the saturated fraction of pixels.

    Args:
        u_data: Energies of data.
        u_model: Energies of samples.
        x_model: The samples (B, *event).
    """
    terms = {"energy_data": u_data.detach().mean(), "energy_model": u_model.detach().mean()}
    terms["energy_gap"] = terms["energy_data"] - terms["energy_model"]
    if x_model.dim() == 4:
        terms["saturated"] = (x_model.abs() >= 1).float().mean()
    return terms


def step_length(step: Tensor | float, gradient: Tensor) -> Terms:
    """Root mean square per coordinate of the last step of chains along the gradient.

    Args:
        step: Factor of the gradients, one for all or (B,).
        gradient: ∇U (B, *event).
    """
    step = torch.as_tensor(step, device=gradient.device).reshape(-1, *[1] * (gradient.dim() - 1))
    return {"step_rms": (step * gradient.detach()).square().mean().sqrt()}


def check_pixels(x: Tensor) -> None:
    """Check that images lie in [-1, 1] and are not constant.

    Raises:
        UserError: They do not.
    """
    low, high = float(x.min()), float(x.max())
    if low < -1.001 or high > 1.001 or not low < high:
        got = f"pixels from {low:.4g} to {high:.4g}"
        raise UserError(f"data: expected images in [-1, 1], got {got}. Scale bytes by 1 / 127.5 and subtract 1")
