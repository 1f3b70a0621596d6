"""Learning rates that follow the steps they cause. Unlike a schedule, they have a state, which checkpoints hold.

A control sees every optimizer step x' = x - lr d of every player, whatever the optimizer and whoever made the gradient:
the parameters x right before it, and the change x' - x. It answers with a factor of each player's rate.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from pt_flows.construction import Constructed
from pt_flows.errors import UserError
from pt_flows.training.distributed import mean_over_ranks
from pt_flows.training.flat import joined
from pt_flows.training.optimizers import steps_with_its_rate


class Step(NamedTuple):
    """One optimizer step of a player, x' = x - lr d.

    Attributes:
        x: All parameters of the optimizer before the step (P,).
        change: x' - x (P,): with weight decay, momentum and clipping, if there are any.
        lr: Learning rate of the first parameter group; relative rates of other groups are a part of d.
    """

    x: Tensor
    change: Tensor
    lr: float


class RateControl(Constructed, ABC):
    """Base of controls. A subclass takes in steps, decides after iterations, and saves its state.

    Attributes:
        per_player: Whether players may get different factors.
    """

    def __init__(self, per_player: bool) -> None:
        self.per_player = per_player
        self.optimizers: dict[str, Optimizer] = {}
        self._before: dict[str, Tensor] = {}
        self._hooks: list[Any] = []

    @abstractmethod
    def observe(self, player: str, step: Step) -> None:
        """Take in a step, without waiting for the device."""

    @abstractmethod
    def advance(self) -> None:
        """End an iteration, in which players may have taken any number of steps; the same on all ranks."""

    @abstractmethod
    def factor(self, player: str) -> float:
        """Return the factor of a player's learning rate."""

    def report(self) -> dict[str, float]:
        """Return numbers for a row of the log, by their log keys."""
        return {f"train/rate_factor_{player}": self.factor(player) for player in self.optimizers}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state before a run continues."""

    def watch(self, optimizers: Mapping[str, Optimizer]) -> None:
        """Observe every step of these optimizers from now on.

        Args:
            optimizers: The optimizers by the name of their player.
        """
        self.optimizers = dict(optimizers)
        for player, optimizer in optimizers.items():
            self._hooks += [
                optimizer.register_step_pre_hook(partial(self._before_step, player)),
                optimizer.register_step_post_hook(partial(self._after_step, player)),
            ]

    def release(self) -> None:
        """Observe no more steps."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._before = [], {}

    def _before_step(self, player: str, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._before[player] = vector(optimizer)

    @torch.no_grad()
    def _after_step(self, player: str, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        x, lr = self._before.pop(player), float(optimizer.param_groups[0]["lr"])
        if lr > 0:
            self.observe(player, Step(x, vector(optimizer).sub_(x), lr))


def check_controllable(optimizers: Mapping[str, Optimizer]) -> None:
    """Check that rates can be controlled.

    Args:
        optimizers: The optimizers by the name of their player.

    Raises:
        UserError: There is none, or the steps of one are not proportional to its rate, or not known to be.
    """
    if not optimizers:
        raise UserError("rates: expected a player with an optimizer, got none. Omit rates")
    for player, optimizer in optimizers.items():
        if not steps_with_its_rate(optimizer):
            wanted = "expected optimizers whose steps are proportional to their learning rate"
            raise UserError(f"rates: {wanted}, got {type(optimizer).__name__} of {player}. Use SGD or Adam")


def vector(optimizer: Optimizer) -> Tensor:
    """A copy of all parameters of an optimizer (P,)."""
    return joined([p.detach() for group in optimizer.param_groups for p in group["params"]])


def momentum(optimizer: Optimizer) -> float:
    """The momentum of an optimizer, or Adam's first decay; 0 if it tells none."""
    group = optimizer.param_groups[0]
    return float(group["momentum"] if "momentum" in group else group.get("betas", (0.0,))[0])


def numbers(values: Tensor) -> list[Any]:
    """Numbers of the device, equal on all ranks to the last bit."""
    return mean_over_ranks([values])[0].tolist()
