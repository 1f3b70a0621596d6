r"""One controlled learning rate for all parameters of a player, whatever its optimizer.

    step of a player     x' = x - η u d           η the full rate, d the direction that its optimizer really takes
    what is new in it    g = (d - μ d_previous) / (1 - μ)                        μ the optimizer's momentum
    one quadratic model  a = Σ cov(g, x) / Σ var(x),  S = Σ var(g),  m = ‖mean g‖² / (2 a)     (`training.moments`)
    u ← β u + (1 - β) u*(a, m, S)                                                              (`functional.control`)

Li, Tai, E 2017, arXiv:1511.06251, have one model for every coordinate (`training.optim.CSGD`). The sums over
coordinates, and g in place of the gradient, are ours. For SGD without momentum g is the gradient.
"""

import math
from typing import Any

import torch
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.functional.control import controlled_rate
from pt_flows.training.moments import WARM_UP, follow, model
from pt_flows.training.rates import RateControl, Step, momentum, numbers


class ControlledRate(RateControl):
    """Scales learning rates by the optimal control of a local quadratic model: in full until noise dominates.

    Args:
        every_n_iterations: Iterations after which rates change; only then does training wait for the device.
        per_player: Give each player a factor of its own, instead of the smallest to all.
    """

    def __init__(self, every_n_iterations: Count = 10, per_player: bool = True) -> None:
        super().__init__(per_player)
        self.every_n_iterations, self.age = every_n_iterations, 0
        self.moments: dict[str, dict[str, Tensor]] = {}
        self.factors: dict[str, float] = {}

    def observe(self, player: str, step: Step) -> None:
        """Take in a direction, and move u towards its optimum."""
        moments = self.moments.setdefault(player, {})
        if "u" in moments and moments["u"].device != step.x.device:  # after a resume
            moments.update({key: value.to(step.x.device) for key, value in moments.items() if key != "step"})
        follow(moments, self.renewed(player, step.change / -step.lr), step.x, torch.sum)
        if "u" not in moments:
            moments["u"] = torch.ones_like(moments["beta"])
        if moments["step"] > WARM_UP:
            u = controlled_rate(*model(moments, torch.sum), step.lr / self.factor(player))
            moments["u"].lerp_(u, 1 - moments["beta"])

    def renewed(self, player: str, d: Tensor) -> Tensor:
        """The new part of a direction, whose noise does not depend on the steps before."""
        mu, moments = momentum(self.optimizers[player]), self.moments[player]
        if not mu:
            return d
        before, moments["d"] = moments.get("d", d), d
        return (d - mu * before) / (1 - mu)

    def advance(self) -> None:
        """Adopt the present u as the factors. After a step that was not finite the moments begin anew."""
        self.age += 1
        if self.age % self.every_n_iterations or not self.moments:
            return
        values = [torch.stack([moments["u"], moments["var_g"] + moments["var_x"]]) for moments in self.moments.values()]
        for player, (u, spread) in zip(list(self.moments), numbers(torch.stack(values)), strict=True):
            if math.isfinite(spread):
                self.factors[player] = u
            else:
                del self.moments[player]

    def factor(self, player: str) -> float:
        """u, or the smallest u of all players."""
        smallest = min(self.factors.values(), default=1.0)
        return self.factors.get(player, 1.0) if self.per_player else smallest

    def state_dict(self) -> dict[str, Any]:
        """The moments and the factors."""
        return {"age": self.age, "factors": dict(self.factors), "moments": self.moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the moments and the factors."""
        self.age, self.factors = int(state["age"]), {k: float(v) for k, v in state["factors"].items()}
        self.moments = {player: dict(moments) for player, moments in state["moments"].items()}
