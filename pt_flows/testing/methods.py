"""Checks of a method: short runs, compared with each other."""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from torch import nn

from pt_flows.contracts import Batch
from pt_flows.testing.case import HALF, LONG, SHORT, Case, difference, tensors
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
    frozen = {name for name, p in case.before.items() if torch.equal(p, dict(method.named_parameters())[name])}
    for name, network in method.networks.items():
        for key, parameter in network.named_parameters():
            places = [path for path, p in method.named_parameters() if p is parameter and path in frozen]
            if places and parameter.requires_grad and not adds_a_constant(network, parameter, case.inputs.get(name)):
                raise AssertionError(
                    f"{name}: {key} did not move in {SHORT} iterations. Let an optimizer move it, or set its "
                    "requires_grad to False"
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
        "runs with two seeds give the same weights. Set no seed in the method or its networks"
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
            raise AssertionError(
                f"the checkpoint holds more than tensors and plain values ({str(error).splitlines()[0]}). Give only "
                "these in get_extra_state and on_save_checkpoint"
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
    """Saves a checkpoint and stops."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after some iterations."""
        if trainer.global_step == HALF:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def resume(case: Case) -> None:
    """A run that is stopped and continued gives the same weights as one that goes on."""
    whole, resumed = case.fresh(), case.fresh(seed=1)
    L.seed_everything(0, verbose=False)
    case.fit(whole, LONG)
    with TemporaryDirectory() as folder:
        path = Path(folder, "half.ckpt")
        case.fit(case.fresh(), LONG, callback=StopHalfway(path))
        case.fit(resumed, LONG, path)
    why = difference(tensors(whole), tensors(resumed))
    assert not why, (
        f"a run that is continued from a checkpoint at iteration {HALF} has other weights at {LONG} than one that goes "
        f"on ({why}). Keep what the next iteration needs in buffers or get_extra_state, and draw from self.noise"
    )


class SameWeights(L.Callback):
    """Both processes hold the same weights after every block."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare."""
        why = difference(*of_every_rank(tensors(pl_module)))
        assert not why, (
            f"the two processes have different weights after iteration {trainer.global_step} ({why}). Take steps with "
            "player.step, or average gradients with mean_over_ranks"
        )


class SameData(L.Callback):
    """Gives both processes the data of the first, and notes whether their terms differ all the same."""

    def __init__(self, own_seeds: bool) -> None:
        self.own_seeds = own_seeds

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give each process a seed of its own."""
        if self.own_seeds:
            os.environ["PL_GLOBAL_SEED"] = str(trainer.global_rank)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Overwrite the data."""
        for part in batch:
            part.copy_(of_every_rank(part)[0])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare the terms."""
        metrics = trainer.callback_metrics
        terms = {k: float(v) for k, v in metrics.items() if k.startswith("train/") and not k.startswith("train/lr_")}
        first, second = of_every_rank(terms)
        if first != second:
            metrics["differs"] = torch.ones(())


def two_processes(case: Case) -> None:
    """A run on two processes gives the weights of a run on one, to rounding in float64."""
    torch.set_default_dtype(torch.float64)
    one = case.fresh()
    case.fit(one, SHORT, precision="64-true")
    two, _ = case.on_two_processes(SameWeights())
    why = difference(tensors(one), tensors(two), rtol=1e-9, atol=1e-10)
    if why and not differ_in_terms(case, own_seeds=False) and differ_in_terms(case, own_seeds=True):
        raise AssertionError(
            f"both processes draw the same random numbers, so two have other weights than one ({why}). Draw from "
            "self.noise, which gives every process its share"
        )
    assert not why, (
        f"a run on two processes has other weights than a run on one ({why}). Draw from self.noise, and compute what "
        "depends on the whole minibatch on all_ranks(x)"
    )


def differ_in_terms(case: Case, own_seeds: bool) -> bool:
    """Whether two processes with the same data have different terms."""
    _, trainer = case.on_two_processes(SameData(own_seeds))
    return "differs" in trainer.callback_metrics


def average(case: Case) -> None:
    """Averages of weights follow the weights at a distance."""
    players = {name: player for name, player in case.trained.players.items() if player.ema is not None}
    if not players:
        raise NotApplicable("no player keeps an average of its weights")
    for name, player in players.items():
        trained = [key for key, p in player.network.named_parameters() if p.requires_grad]
        raw, ema = player.network.state_dict(), player.ema.network.state_dict()
        assert any(not torch.equal(raw[key], ema[key]) for key in trained), (
            f"the average of {name} equals its weights after {SHORT} iterations. Set its ema_decay above 0, and leave "
            "averaging to the base"
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
