"""Rolling back: a run of an energy-based model that diverges continues from its last good state."""

from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from pt_flows.errors import DivergenceError
from pt_flows.loop.method import Method


class Rollback:
    """Copies of the state of a method at rows of the log.

    Attributes:
        num: Number of times that the run was rolled back.
    """

    def __init__(self) -> None:
        self.num = 0
        self._good: dict[str, Any] | None = None

    def remember(self, method: Method) -> None:
        """Keep a copy of everything that training changes."""
        optimizers = {name: p.optimizer.state_dict() for name, p in method.players.items() if p.optimizer is not None}
        self._good = _copied({"method": method.state_dict(), "optimizers": optimizers, "iteration": method.iteration})

    def restore(self, method: Method, reason: DivergenceError | None) -> int:
        """Restore the last good state, chains included.

        Iterations, costs and noise continue from the present ones, because the run would otherwise fail again in the
        same way.

        Args:
            method: The method that diverges.
            reason: The error of this process; None if another process diverged.

        Returns:
            The iteration of the restored state.

        Raises:
            DivergenceError: There is no state yet.
        """
        if self._good is None:
            raise reason or DivergenceError("another process diverged before there was a state to restore")
        good, iteration, cost = _copied(self._good), method.iteration, method.cost.state_dict()
        self.num += 1
        method.load_state_dict(good["method"])
        for name, state in good["optimizers"].items():
            method.players[name].bound.load_state_dict(state)
        method.iteration = iteration
        method.cost.load_state_dict(cost)
        cause = reason or "another process diverged"
        rank_zero_warn(f"{cause}; rolled back to the state of iteration {good['iteration']}")
        return int(good["iteration"])


def _copied(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return type(state)((key, _copied(value)) for key, value in state.items())
    if isinstance(state, list | tuple):
        return type(state)(map(_copied, state))
    return state
