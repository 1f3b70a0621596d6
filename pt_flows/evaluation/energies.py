"""Energy-based models of finished runs: load them, compose them, and draw data for them."""

from typing import Any

from torch import Tensor

from pt_flows.contracts import HasLevels, RunsChains
from pt_flows.errors import UserError
from pt_flows.evaluation.load import FinishedRun, device_named, finished
from pt_flows.training.noise import generator_at


def load_energy(ckpt: str, device: str = "auto") -> tuple[FinishedRun, Any]:
    """Load the run of the checkpoint that a command names, and its energy-based model on a device.

    Raises:
        UserError: The checkpoint holds another kind of method.
    """
    run = finished(ckpt)
    if not isinstance(run.method, RunsChains):
        got = type(run.method).__name__
        raise UserError(f"{run.checkpoint}: expected an energy-based model, got {got}. Give another checkpoint")
    return run, run.method.to(device_named(device))


def compose(method: Any, other: Any) -> None:
    """Let the first model sample the sum of both energies.

    Raises:
        UserError: The two have other points or labels.
    """
    kinds = [(m.event_shape, m.num_labels if isinstance(m, HasLevels) else 0) for m in (method, other)]
    if kinds[0] != kinds[1]:
        wanted, got = (f"samples {tuple(shape)} and {labels} labels" for shape, labels in kinds)
        raise UserError(f"--plus: expected an energy of {wanted}, got {got}. Use models of the same data and levels")
    averaged = other.energy.ema.network if other.energy.ema is not None else other.energy.network
    method.add(other.energy.network, averaged)


def with_model_noise(method: Any, x: Tensor, seed: int, name: str) -> Tensor:
    """Samples on the method's device, with the noise on the data that the model includes.

    Args:
        method: The method.
        x: Clean samples (n, *event).
        seed: Seed of the noise.
        name: Name of the samples, which distinguishes their noise.
    """
    return method.with_data_noise(x.to(method.device), generator_at(method.device, seed, "data noise", name))
