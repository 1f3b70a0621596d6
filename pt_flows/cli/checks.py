"""Checks of values that the parser accepts and that Lightning or torch would reject later."""

import importlib
import inspect
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from pt_flows.errors import UserError

LARGEST_SEED = 2**32 - 1
NOT_FOR_METHODS: dict[str, tuple[Any, str]] = {
    "accumulate_grad_batches": (1, "To save memory, lower data.batch_size or set activation_checkpointing"),
    "gradient_clip_val": (None, "Set clip_norm of a player instead, such as model.energy.clip_norm"),
}
"""Settings of the Trainer for loops of one optimizer: their only supported values, and what to do instead."""


def check_values(config: Any) -> None:
    """Check the seed, the device and the optimizers of a configuration.

    Raises:
        UserError: One of them is not supported.
    """
    seed = config.seed_everything
    if not isinstance(seed, bool) and seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed_everything: expected an int from 0 to {LARGEST_SEED}, got {seed}")
    check_accelerator(config.trainer.accelerator)
    check_strategy(config.trainer.strategy)
    for key, value in vars(config.model.get("init_args") or Namespace()).items():
        check_optimizer(f"model.{key}.optimizer", getattr(value, "optimizer", None))


def check_accelerator(name: Any) -> None:
    """Check that this machine has the device.

    Raises:
        UserError: It does not.
    """
    if not isinstance(name, str) or name == "auto":
        return
    kinds = {kind: AcceleratorRegistry[kind]["accelerator"] for kind in AcceleratorRegistry.available_accelerators()}
    here = {kind for kind, accelerator in kinds.items() if accelerator.is_available()}
    here |= {"gpu"} if here & {"cuda", "mps"} else set()
    if name not in here:
        choices = ", ".join(["auto", *sorted(here)])
        raise UserError(f"trainer.accelerator: expected one of {choices} on this machine, got {name!r}")


def check_strategy(name: Any) -> None:
    """Check that Lightning has the strategy.

    Raises:
        UserError: It does not.
    """
    if isinstance(name, str) and name != "auto" and name not in StrategyRegistry.available_strategies():
        raise UserError(f"trainer.strategy: expected auto, ddp or another strategy of Lightning, got {name!r}")


def check_optimizer(key: str, given: Any) -> None:
    """Check that an optimizer fits the steps of a method, and that it can be built.

    Raises:
        UserError: It needs sparse gradients or several losses per step, or it rejects its settings.
    """
    if not hasattr(given, "class_path"):
        return
    module, _, name = given.class_path.rpartition(".")
    cls = getattr(importlib.import_module(module), name, None)
    if not inspect.isclass(cls) or not issubclass(cls, torch.optim.Optimizer):
        return
    closure = inspect.signature(cls.step).parameters.get("closure")
    if (closure is not None and closure.default is closure.empty) or cls is torch.optim.SparseAdam:
        wanted = "an optimizer that takes one dense gradient per step"
        raise UserError(f"{key}: expected {wanted}, got {name}. Use Adam, SGD or RMSprop")
    try:
        cls(torch.nn.Linear(2, 2).parameters(), **vars(given.get("init_args") or Namespace()))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{key}: expected settings that {name} accepts, got others. {error}") from error


def check_training(trainer: Any) -> None:
    """Check that methods support the Trainer's settings, and that there is something to train.

    Raises:
        UserError: A setting is for loops of one optimizer, or there are no iterations.
    """
    for key, (only, instead) in NOT_FOR_METHODS.items():
        if (given := trainer[key]) != only:
            raise UserError(f"trainer.{key}: expected {only or 'null'}, got {given}. {instead}")
    if trainer.max_steps < 1:
        raise UserError(f"trainer.max_steps: expected at least 1, got {trainer.max_steps}. Set the length of the run")
