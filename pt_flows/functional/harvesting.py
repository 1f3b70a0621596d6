"""Chains that jump between noise levels, and end when they have been at the level of data often enough."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pt_flows.functional.gibbs import Transition


def harvest(
    move: Callable[[Tensor, Tensor], Transition], x: Tensor, t: Tensor, num_visits: int, max_transitions: int
) -> Iterator[tuple[int, Tensor]]:
    """Run chains until each was at label 0 after a number of transitions, which need not be successive.

    Args:
        move: One transition of points (B, *event) and labels (B,).
        x: Starting points.
        t: Starting labels.
        num_visits: Number of the visit of label 0 at which a chain ends.
        max_transitions: Number of transitions after which all chains end.

    Yields:
        The number of chains that still run, and the points of all chains, after every transition.
    """
    taken, running = x.clone(), torch.arange(len(x), device=x.device)
    visits = torch.zeros_like(t)
    for _ in range(max_transitions):
        x, t, *_ = move(x, t)
        visits = visits + (t == 0)
        taken[running] = x
        on = visits < num_visits
        x, t, visits, running = x[on], t[on], visits[on], running[on]
        yield len(running), taken
        if not len(running):
            return
