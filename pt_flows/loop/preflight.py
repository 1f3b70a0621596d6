"""Preflight: checks of the trainer, the ranks, the data and the samples before anything is computed."""

import re
import warnings
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch.nn.modules.batchnorm import _BatchNorm

from pt_flows.contracts import MapsLatents, Samples
from pt_flows.errors import UserError
from pt_flows.loop.clock import synchronises_batch_norm
from pt_flows.loop.describing import is_plain
from pt_flows.loop.endless import check_callbacks, check_endings, check_schedulers
from pt_flows.training.distributed import of_every_rank
from pt_flows.training.noise import run_seed
from pt_flows.training.requirements import check_agreement, check_samples
from pt_flows.training.schedules import Schedule


class Preflight(L.Callback):
    """Checks that trainer, precision, processes and data suit the method."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check settings and shapes."""
        method: Any = pl_module
        if (num := method.minibatches_per_iteration) < 1:
            raise UserError(f"{type(method).__name__}.minibatches_per_iteration: expected at least 1, got {num}")
        check_data(trainer, method)
        check_trainer(trainer)
        if synchronises_batch_norm(trainer):
            check_synchronised_norms(trainer, method)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check schedules, processes, and two samples."""
        method: Any = pl_module
        check_optimizers(trainer, method)
        check_schedulers(trainer)
        for key, schedule in schedules_of(method).items():
            if schedule.needs_an_end and trainer.max_steps < 1:
                wanted = f"expected a run with a planned end for a {schedule.decay} decay"
                raise UserError(f"{key}: {wanted}, got none. Set trainer.max_steps (iterations)")
        check_same_everywhere(trainer, method)
        check_two_samples(trainer, method)
        averages = [average for player in method.players.values() for average in player.averages]
        num = sum(1 for ema in averages for _ in ema.modules())  # never in training mode, and Lightning warns of them
        warnings.filterwarnings("ignore", re.escape(f"Found {num} module(s) in eval mode"))


def schedules_of(method: Any) -> dict[str, Schedule]:
    """All schedules of a method and of its players, by their configuration keys."""
    own = {f"model.{name}": value for name, value in vars(method).items() if isinstance(value, Schedule)}
    return own | {f"model.{name}.lr_schedule": player.lr_schedule for name, player in method.players.items()}


def check_data(trainer: L.Trainer, method: Any) -> None:
    """Check that the networks take the samples and labels of the data.

    Raises:
        UserError: They do not.
    """
    data: Any = cast(Any, trainer).datamodule
    if data is None:
        return
    for name, player in method.players.items():
        shape = getattr(data, "event_shape", getattr(player.network, "event_shape", ()))
        classes = getattr(data, "num_classes", 0)
        check_agreement(f"model.{name}.network", player.network, type(data).__name__, shape, classes, optional=True)


def check_trainer(trainer: L.Trainer) -> None:
    """Check the trainer's strategy, precision, endings and callbacks.

    Raises:
        UserError: One is not supported.
    """
    check_endings(trainer)
    check_callbacks(trainer)
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        got, why = type(trainer.strategy).__name__, "Gradient penalties need double backward, which others lack"
        raise UserError(f"trainer.strategy: expected ddp, got {got}. {why}")
    if (precision := str(trainer.precision)).startswith("16") or precision == "bf16-true":
        why = "Weights of 8 bits lose small steps" if precision == "bf16-true" else "Gradients of penalties overflow it"
        raise UserError(f"trainer.precision: expected bf16-mixed or 32-true, got {precision}. {why}")


def check_synchronised_norms(trainer: L.Trainer, method: Any) -> None:
    """Check that batch norm can be synchronised.

    Raises:
        UserError: It cannot.
    """
    if trainer.strategy.root_device.type == "cpu":
        raise UserError("trainer.sync_batchnorm: expected GPUs, got CPUs. Omit it")
    for name, network in method.networks.items():
        if name not in method.differentiated_once and any(isinstance(m, _BatchNorm) for m in network.modules()):
            wanted = f"expected no batch norm in {name}, which {type(method).__name__} differentiates twice, got some"
            raise UserError(f"trainer.sync_batchnorm: {wanted}. Omit it, or use a network without batch norm")


def check_optimizers(trainer: L.Trainer, method: Any) -> None:
    """Check that Lightning knows the optimizer of every player, so that checkpoints hold its state.

    Raises:
        UserError: It does not.
    """
    known = {id(optimizer) for optimizer in trainer.optimizers}
    for name, player in method.players.items():
        if any(p.requires_grad for p in player.network.parameters()) and id(player.optimizer) not in known:
            raise UserError(
                f"{type(method).__name__}.configure_optimizers: expected the optimizers of all players, got none of "
                f"{name}. Add yours to those of super().configure_optimizers()"
            )


def check_same_everywhere(trainer: L.Trainer, method: Any) -> None:
    """Check that all processes have one configuration, because different ones would wait for each other for ever.

    Raises:
        UserError: One process differs; the error names it and the first difference.
    """
    data = getattr(trainer, "datamodule", None)
    facts = {name: value for name, value in method.hparams.items() if is_plain(value)}
    facts |= {"class": type(method).__name__, "data": type(data).__name__, "seed": run_seed()}
    facts |= {"max_steps": trainer.max_steps, "batch_size": getattr(data, "batch_size", None)}
    facts |= {"iteration": method.iteration}
    facts |= {"optimizers": {name: player.settings for name, player in method.players.items()}}
    facts |= {"parameters": [tuple(p.shape) for p in method.parameters()]}
    first, *others = of_every_rank(facts)
    for rank, other in enumerate(others, 1):
        if differing := [name for name in first if first[name] != other.get(name)]:
            name = differing[0]
            got = f"{name} {str(other.get(name))[:80]} instead of {str(first[name])[:80]}"
            raise UserError(f"process {rank}: expected the configuration of process 0, got {got}. Start all alike")


def check_two_samples(trainer: L.Trainer, method: Any) -> None:
    """Check the shape of two samples if drawing is cheap. Samples of chains are checked when the chains end.

    Raises:
        UserError: They have another shape than the data.
    """
    rng = torch.Generator().manual_seed(0)
    if isinstance(method, Samples):
        shape = getattr(getattr(trainer, "datamodule", None), "event_shape", None)
        x = method.sample(2, rng=rng, weights="raw")
        check_samples(f"{type(method).__name__}.sample", x, 2, tuple(shape or x.shape[1:]))
    elif isinstance(method, MapsLatents):
        x = method.generator.sample(2, rng=rng, weights="raw")
        check_samples("model.generator.network", x, 2, method.generator.event_shape)
