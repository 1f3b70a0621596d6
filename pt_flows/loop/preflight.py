"""Preflight: the checks of a run before anything is computed. One callback, for trainer, ranks, data and samples."""

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
from pt_flows.training.requirements import check_samples
from pt_flows.training.schedules import Schedule


class Preflight(L.Callback):
    """Checks that trainer, precision, processes and data suit the method."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check settings and shapes."""
        method: Any = pl_module
        if method.minibatches_per_iteration < 1:
            raise UserError(
                f"{type(method).__name__}.minibatches_per_iteration: expected at least 1, got "
                f"{method.minibatches_per_iteration}"
            )
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
                raise UserError(
                    f"{key}: expected a run with a planned end for a {schedule.decay} decay, got none. Set "
                    "trainer.max_steps (iterations)"
                )
        check_same_everywhere(trainer, method)
        check_two_samples(trainer, method)
        averages = [player.ema for player in method.players.values() if player.ema is not None]
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
    shape, classes = getattr(data, "event_shape", None), getattr(data, "num_classes", 0)
    for name, player in method.players.items():
        own: Any = getattr(player.network, "event_shape", shape)
        if shape is not None and tuple(shape) != tuple(own):
            raise UserError(
                f"model.{name}.network: expected samples of shape {tuple(shape)}, which {type(data).__name__} serves, "
                f"got {tuple(own)}. Change image_size, num_channels or event_shape of the network, or the data"
            )
        conditions = getattr(player.network, "num_classes", 0)
        if data is not None and conditions and conditions != classes:
            raise UserError(
                f"model.{name}.network: expected num_classes {classes}, as {type(data).__name__} has, got "
                f"{conditions}. Set num_classes of all networks to that of the data, or to 0"
            )


def check_trainer(trainer: L.Trainer) -> None:
    """Check the trainer's strategy, precision, endings and callbacks.

    Raises:
        UserError: One is not supported; says why, and what to do.
    """
    check_endings(trainer)
    check_callbacks(trainer)
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise UserError(
            f"trainer.strategy: expected ddp, got {type(trainer.strategy).__name__}. Gradient penalties need double "
            "backward, which sharded strategies lack"
        )
    if str(trainer.precision).startswith("16"):
        raise UserError(
            f"trainer.precision: expected bf16-mixed or 32-true, got {trainer.precision}. Gradients of penalties "
            "overflow half precision"
        )
    if trainer.precision == "bf16-true":
        raise UserError(
            "trainer.precision: expected bf16-mixed or 32-true, got bf16-true. Weights of 8 bits round small steps away"
        )


def check_synchronised_norms(trainer: L.Trainer, method: Any) -> None:
    """Check that batch norm can be synchronised.

    Raises:
        UserError: It cannot.
    """
    if trainer.strategy.root_device.type == "cpu":
        raise UserError(
            "trainer.sync_batchnorm: expected GPUs, got CPUs. Omit it; every process then normalises its own part of a "
            "minibatch"
        )
    for name, network in method.networks.items():
        if name not in method.differentiated_once and any(isinstance(m, _BatchNorm) for m in network.modules()):
            raise UserError(
                f"trainer.sync_batchnorm: expected no batch norm in {name}, which {type(method).__name__} "
                "differentiates twice. Omit it, or take a network without batch norm"
            )


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
                f"{name}. Return those of super().configure_optimizers(), and others after them"
            )


def check_same_everywhere(trainer: L.Trainer, method: Any) -> None:
    """Check that all processes were started with one configuration, as others would wait for each other for ever.

    Raises:
        UserError: Names the first process that differs, and how.
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
            raise UserError(
                f"process {rank}: expected the configuration of process 0, got {name} {str(other.get(name))[:80]} "
                f"instead of {str(first[name])[:80]}. Start all with one command"
            )


def check_two_samples(trainer: L.Trainer, method: Any) -> None:
    """Check the shape of two samples, where drawing is cheap; chains take long and are checked when they end.

    Raises:
        UserError: They have another shape than the data.
    """
    rng = torch.Generator().manual_seed(0)
    if isinstance(method, Samples):
        shape = getattr(getattr(trainer, "datamodule", None), "event_shape", None)
        x = method.sample(2, rng=rng)
        check_samples(f"{type(method).__name__}.sample", x, 2, tuple(shape or x.shape[1:]))
    elif isinstance(method, MapsLatents):
        x = method.generator.sample(2, rng=rng, weights="raw")
        check_samples("model.generator.network", x, 2, method.generator.event_shape)
