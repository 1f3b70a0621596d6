"""Chains that jump between noise levels, taken when they have been at the level of data often enough."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pt_flows.functional.langevin import Transition


def harvest(
    move: Callable[[Tensor, Tensor], Transition], x: Tensor, t: Tensor, num_visits: int, max_transitions: int
) -> Iterator[tuple[int, Tensor]]:
    """Run chains until each was at label 0 for a number of transitions, counted in all, and take it there.

    Args:
        move: One transition of points (B, *event) and labels (B,).
        x: Starting points.
        t: Starting labels.
        num_visits: At which visit of label 0 a chain is taken.
        max_transitions: When the rest is taken as it is.

    Yields:
        After every transition the number of chains that still run, and the points: taken ones, and where the rest is.
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
