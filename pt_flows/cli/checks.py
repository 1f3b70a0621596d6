"""Values that the parser accepts and that Lightning or torch would refuse later, in their own words."""

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
    "accumulate_grad_batches": (1, "a step of a method takes its whole minibatch; for less memory lower "
                                "data.batch_size, take more devices or, with residual networks, "
                                "activation_checkpointing"),
    "gradient_clip_val": (None, "players clip their own gradients: model.energy.clip_norm, for example"),
}  # fmt: skip
"""Settings of the Trainer that are for loops of one optimizer: what they must be, and what to do instead."""


def check_values(config: Any) -> None:
    """Check the seed, the device and the optimizers of a configuration.

    Raises:
        UserError: One of them cannot work.
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
        UserError: There is no such kind of device, or none of it here.
    """
    if not isinstance(name, str) or name == "auto":
        return
    kinds = {kind: AcceleratorRegistry[kind]["accelerator"] for kind in AcceleratorRegistry.available_accelerators()}
    asked = ("cuda", "mps") if name == "gpu" else (name,)
    if not set(asked) <= set(kinds):
        known = ", ".join(["auto", "gpu", *sorted(kinds)])
        raise UserError(f"trainer.accelerator: expected one of {known}, got {name!r}")
    if not any(kinds[kind].is_available() for kind in asked):
        raise UserError(f"trainer.accelerator: {name} was asked for, but this machine has none. Use cpu or auto")


def check_strategy(name: Any) -> None:
    """Check that Lightning knows the strategy.

    Raises:
        UserError: It does not.
    """
    if isinstance(name, str) and name != "auto" and name not in StrategyRegistry.available_strategies():
        raise UserError(f"trainer.strategy: expected auto, ddp or another of Lightning's strategies, got {name!r}")


def check_optimizer(key: str, given: Any) -> None:
    """Build an optimizer for a small matrix and a vector, if it is one.

    Raises:
        UserError: Its settings are refused, or its steps are not those that a method makes.
    """
    if not hasattr(given, "class_path"):
        return
    module, _, name = given.class_path.rpartition(".")
    cls = getattr(importlib.import_module(module), name, None)
    if not inspect.isclass(cls) or not issubclass(cls, torch.optim.Optimizer):
        return
    closure = inspect.signature(cls.step).parameters.get("closure")
    if (closure is not None and closure.default is closure.empty) or cls is torch.optim.SparseAdam:
        reason = (
            "needs sparse gradients" if cls is torch.optim.SparseAdam else "evaluates its loss several times a step"
        )
        raise UserError(f"{key}: {name} is not supported, because it {reason}. Use Adam, SGD or RMSprop")
    try:
        cls(torch.nn.Linear(2, 2).parameters(), **vars(given.get("init_args") or Namespace()))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{key}: {name} refuses its settings: {error}") from error


def check_training(trainer: Any) -> None:
    """Check that the Trainer's settings are those of a method.

    Raises:
        UserError: One is for loops of one optimizer, or there is nothing to train.
    """
    for key, (default, instead) in NOT_FOR_METHODS.items():
        if trainer[key] != default:
            raise UserError(f"trainer.{key}: {trainer[key]} is not supported: {instead}")
    if trainer.max_steps < 1:
        raise UserError(f"trainer.max_steps must be the number of iterations to train, got {trainer.max_steps}")
