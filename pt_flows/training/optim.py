r"""SGD whose learning rate or momentum is controlled in every coordinate by a local quadratic model of the loss.

    a, m, S from running moments of g and x (`training.moments`)
    CSGD     u ← β u + (1 - β) u*(a, m, S),   x ← x - η u g
    CMSGD    μ ← β μ + (1 - β) μ*(a, m, S),   v ← μ v + g,   x ← x - η v

Li, Tai, E 2017, Stochastic Modified Equations and Adaptive Stochastic Gradient Algorithms, arXiv:1511.06251. Gu and Guo
2021, arXiv:2105.08037v1, control adversarial training in this way: its gradients are those at perturbed data.

Departures: written from notes on the equations; the bodies of the papers were not available. See `training.moments`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pt_flows.errors import UserError
from pt_flows.functional.control import controlled_momentum, controlled_rate
from pt_flows.training.moments import WARM_UP, Moments, each, follow, model


class Controlled(Optimizer):
    """Base of both: follows the moments of every coordinate, then moves.

    Args:
        params: Parameters, or groups of them.
        lr: The full learning rate η.

    Raises:
        UserError: The rate is not above zero.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.1) -> None:
        if not lr > 0:
            raise UserError(f"{type(self).__name__}.lr: expected a number above 0, got {lr}")
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step along the gradients of the parameters, after evaluating the closure if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    follow(self.state[parameter], parameter.grad, parameter, each)
                    self.move(parameter, parameter.grad, self.state[parameter], group["lr"])
        return loss

    def move(self, x: Tensor, g: Tensor, state: Moments, eta: float) -> None:
        """Move parameters in place along their gradient."""
        raise NotImplementedError

    def smoothed(self, state: Moments, name: str, start: float, optimum: Any, eta: float) -> Tensor:
        """The running mean of an optimal value, which is kept in the state; its start during the warm-up."""
        if name not in state:
            state[name] = torch.full_like(state["beta"], start)
        value = state[name]
        if state["step"] > WARM_UP:
            value.lerp_(optimum(*model(state, each), eta), 1 - state["beta"])
        return value


class CSGD(Controlled):
    """SGD with a controlled learning rate: step = η u g with u in (0, 1] for every coordinate.

    Args:
        params: Parameters, or groups of them.
        lr: The full learning rate η, which may be too large for the end of a run.
    """

    def move(self, x: Tensor, g: Tensor, state: Moments, eta: float) -> None:
        """Take the step -η u g."""
        x.addcmul_(self.smoothed(state, "u", 1.0, controlled_rate, eta), g, value=-float(eta))


class CMSGD(Controlled):
    """SGD with controlled momentum: a heavy ball with μ in [0, 1] for every coordinate, 0.9 at first.

    Args:
        params: Parameters, or groups of them.
        lr: The learning rate η.
    """

    def move(self, x: Tensor, g: Tensor, state: Moments, eta: float) -> None:
        """Take the step -η v, with v ← μ v + g."""
        if "v" not in state:
            state["v"] = torch.zeros_like(x)
        v = state["v"].mul_(self.smoothed(state, "mu", 0.9, controlled_momentum, eta)).add_(g)
        x.add_(v, alpha=-float(eta))
