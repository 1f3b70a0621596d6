"""Checks of a method: short runs, compared with each other."""

import re
from collections.abc import Callable
from multiprocessing import get_all_start_methods
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from torch import nn

from pt_flows.testing.case import SHORT, Case, difference, tensors
from pt_flows.testing.report import NotApplicable
from pt_flows.testing.samples import SAMPLE_CHECKS
from pt_flows.training.distributed import of_every_rank


def trains(case: Case) -> None:
    """A short run has finite parameters and terms that are detached scalar tensors, and counts its iterations."""
    bad = [name for name, p in case.trained.named_parameters() if not bool(p.isfinite().all())]
    assert not bad, f"{bad[0]}: expected finite values after {SHORT} iterations, got others. Take smaller steps"


def moves(case: Case) -> None:
    """Every trainable parameter moves, but constants that a critic or an energy adds to all values."""
    method = case.trained
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad or not torch.equal(parameter, case.before[name]):
            continue
        owners = [key for key, net in method.networks.items() if any(p is parameter for p in net.parameters())]
        if not any(adds_a_constant(method.networks[key], parameter, case.inputs.get(key)) for key in owners):
            raise AssertionError(
                f"{name} did not move in {SHORT} iterations. Let an optimizer move it, or set its requires_grad to "
                "False"
            )


def adds_a_constant(network: nn.Module, parameter: nn.Parameter, inputs: tuple[Any, ...] | None) -> bool:
    """Whether a parameter moves all values of a network alike, so that no difference of two depends on it."""
    if inputs is None:
        return False
    with torch.enable_grad():
        values = network(*inputs)
        if values.dim() != 1 or len(values) < 2:
            return False
        parts = [torch.autograd.grad(value, parameter, retain_graph=True, allow_unused=True)[0] for value in values[:4]]
    return all(part is not None and bool(part.any()) and torch.allclose(part, parts[0]) for part in parts)


def same_seed(case: Case) -> None:
    """The seed decides the weights."""
    found = []
    for seed in (0, 0, 1):
        method = case.fresh(seed)
        case.fit(method, SHORT)
        found.append(tensors(method))
    why = difference(found[0], found[1])
    assert not why, (
        f"two runs with one seed give different weights ({why}). Draw from self.noise, which the seed decides"
    )
    assert difference(found[0], found[2]), (
        "runs with two seeds give the same weights. Set no seed in the method or its networks, and draw from self.noise"
    )


def checkpoint(case: Case) -> None:
    """A checkpoint holds plain values and all weights."""
    method = case.fresh()
    trainer = case.fit(method, SHORT)
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.ckpt")
        trainer.save_checkpoint(path)
        try:
            saved = torch.load(path, weights_only=True)
        except Exception as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f" ({found[1]})" if found else ""
            raise AssertionError(
                f"the checkpoint holds more than tensors and plain values{what}. Give only these in get_extra_state "
                "and on_save_checkpoint"
            ) from error
    again = case.fresh(seed=1)
    again.load_state_dict(saved["state_dict"])
    why = difference(tensors(method), tensors(again))
    assert not why, f"a method with the state dict of another has other weights ({why})"
    assert again.iteration == SHORT, (
        f"a loaded method is at iteration {again.iteration}, expected {SHORT}. Call super() in get_extra_state and "
        "set_extra_state"
    )


class StopHalfway(L.Callback):
    """Saves a checkpoint and stops.

    Args:
        path: The file.
        iteration: When.
    """

    def __init__(self, path: Path, iteration: int) -> None:
        self.path, self.iteration = path, iteration

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop where it is due."""
        if trainer.global_step == self.iteration:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def resume(case: Case) -> None:
    """A run that is stopped and resumed gives the same weights as one without a stop."""
    block = case.data().iterations_per_block
    half = -(-SHORT // block) * block  # runs stop at ends of blocks
    whole, resumed = case.fresh(), case.fresh(seed=1)
    L.seed_everything(0, verbose=False)
    case.fit(whole, half + 2)
    with TemporaryDirectory() as folder:
        path = Path(folder, "half.ckpt")
        case.fit(case.fresh(), half + 2, callback=StopHalfway(path, half))
        case.fit(resumed, half + 2, path)
    why = difference(tensors(whole), tensors(resumed))
    assert not why, (
        f"a run that is resumed from a checkpoint at iteration {half} has other weights at {half + 2} than one without "
        f"a stop ({why}). Keep what the next iteration needs in buffers or get_extra_state, and draw from self.noise"
    )


class SameWeights(L.Callback):
    """Both processes hold the same weights after every block."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare; statistics of batch norm are those of every process."""
        found = dict(pl_module.named_parameters()) if normalises_batches(pl_module) else tensors(pl_module)
        why = difference(*of_every_rank({name: value.detach() for name, value in found.items()}))
        assert not why, (
            f"the two processes have different weights after iteration {trainer.global_step} ({why}). Take steps with "
            "player.step, or average gradients with mean_over_ranks"
        )


def two_processes(case: Case) -> None:
    """A run on two processes gives the weights of a run on one, to rounding in float64."""
    if "fork" not in get_all_start_methods() or torch.cuda.is_initialized():
        raise NotApplicable("needs a system that forks processes, and no GPU in use. Run pt-flows check-method")
    torch.set_default_dtype(torch.float64)
    two = case.on_two_processes(SameWeights())
    if normalises_batches(two):
        raise NotApplicable("batch norm normalises the part of a minibatch that each process has; the two agree")
    one = case.fresh()
    case.fit(one, SHORT, precision="64-true")
    # where a gradient is zero but for rounding, as that of a bias that cancels, Adam divides the rounding by its ε
    why = difference(tensors(one), tensors(two), rtol=1e-9, atol=2e-9)
    assert not why, (
        f"a run on two processes has other weights than a run on one ({why}). Draw from self.noise, which gives every "
        "process its share, and compute what depends on the whole minibatch on all_ranks(x)"
    )


def normalises_batches(method: nn.Module) -> bool:
    """Whether a network has batch norm."""
    return any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) for module in method.modules())


def average(case: Case) -> None:
    """Averages of weights follow the weights at a distance."""
    players = {name: player for name, player in case.trained.players.items() if player.ema_decay}
    if not players:
        raise NotApplicable("no player keeps an average of its weights")
    if case.trained.settles:
        raise NotApplicable("averages become the weights themselves during the run")
    for name, player in players.items():
        raw, ema = player.network.state_dict(), player.ema.network.state_dict()
        trained = [key for key, p in player.network.named_parameters() if p.requires_grad]
        assert not trained or any(not torch.equal(raw[key], ema[key]) for key in trained), (
            f"the average of {name} equals its weights after {SHORT} iterations. Leave averaging to the base"
        )


METHOD_CHECKS: dict[str, Callable[[Case], None]] = {
    "trains": trains,
    "moves": moves,
    "same seed": same_seed,
    "checkpoint": checkpoint,
    "resume": resume,
    "two processes": two_processes,
    "average": average,
    **SAMPLE_CHECKS,
}
"""All checks of methods. Each takes a `Case` and raises an error with the reason."""
SAMPLER_CHECKS: dict[str, Callable[[Case], None]] = {"trains": trains, **SAMPLE_CHECKS}
"""All checks of samplers; each takes a `Case` with a sampler."""
