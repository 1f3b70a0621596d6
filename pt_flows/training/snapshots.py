"""Copies of everything that training changes in a method, to return to it later."""

from typing import Any

from torch import Tensor

Snapshot = dict[str, Any]
"""Weights, buffers and averages under "method", states of the optimizers under "optimizers", and the "iteration"."""


def snapshot(method: Any) -> Snapshot:
    """Copy the state of a method and of its players' optimizers."""
    optimizers = {name: p.optimizer.state_dict() for name, p in method.players.items() if p.optimizer is not None}
    return copied({"method": method.state_dict(), "optimizers": optimizers, "iteration": method.iteration})


def restore(method: Any, kept: Snapshot) -> None:
    """Return to a snapshot. Iterations and costs continue from the present ones, and so does the noise."""
    kept, iteration, cost = copied(kept), method.iteration, method.cost.state_dict()
    method.load_state_dict(kept["method"])
    for name, state in kept["optimizers"].items():
        method.players[name].bound.load_state_dict(state)
    method.iteration = iteration
    method.cost.load_state_dict(cost)


def copied(state: Any) -> Any:
    """Copy nested containers of tensors."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return type(state)((key, copied(value)) for key, value in state.items())
    if isinstance(state, list | tuple):
        return type(state)(map(copied, state))
    return state
