"""Compatibility of an optimizer's state in a checkpoint with the optimizer of this run."""

from collections import defaultdict
from typing import Any

import torch
from torch.optim import Optimizer


def keep_what_fits(states: list[dict[str, Any]], optimizers: list[Optimizer]) -> list[str]:
    """Replace each state that an optimizer cannot continue from by the optimizer's fresh state.

    Another class, or an option such as `amsgrad`, needs other numbers for each parameter than the checkpoint holds.

    Args:
        states: The states in the checkpoint, changed in place.
        optimizers: The optimizers of this run, in the same order.

    Returns:
        A sentence for each optimizer that starts afresh.
    """
    notes = []
    for i, (optimizer, state) in enumerate(zip(optimizers, states, strict=False)):
        if not fits(state, optimizer):
            states[i] = optimizer.state_dict()
            notes.append(
                f"the state of optimizer {i + 1} of {len(optimizers)} in the checkpoint does not fit "
                f"{type(optimizer).__name__} with these options. This optimizer starts afresh"
            )
    return notes


def fits(state: dict[str, Any], optimizer: Optimizer) -> bool:
    """Whether an optimizer can continue from a `state_dict` of an optimizer of the same parameters."""
    there, here = state["param_groups"], optimizer.param_groups
    if [len(group["params"]) for group in there] != [len(group["params"]) for group in here]:
        return False
    if not state["state"] or all(_options(a) == _options(b) for a, b in zip(there, here, strict=True)):
        return True
    firsts = [(group["params"][0], own) for group, own in zip(there, here, strict=True) if group["params"]]
    return all(set(state["state"].get(index, {})) == _numbers_kept(optimizer, own) for index, own in firsts)


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """Options that may decide which numbers are kept; rates do not."""
    return {key: value for key, value in group.items() if key not in ("params", "lr", "initial_lr", "weight_decay")}


def _numbers_kept(optimizer: Optimizer, group: dict[str, Any]) -> set[str]:
    """Names of the numbers that an optimizer keeps for the first parameter of a group, from a step on a stand-in."""
    stand_in = torch.zeros_like(group["params"][0]).requires_grad_()
    stand_in.grad = torch.zeros_like(stand_in)
    probe = _twin(optimizer, group, stand_in)
    type(optimizer).step(probe)
    return set(probe.state[stand_in])


def _twin(optimizer: Optimizer, group: dict[str, Any], stand_in: torch.Tensor) -> Optimizer:
    """An optimizer of the same kind and options without a state, whose only parameter is a stand-in."""
    probe = object.__new__(type(optimizer))
    probe.__dict__.update(vars(optimizer), state=defaultdict(dict), param_groups=[{**group, "params": [stand_in]}])
    return probe


def steps_with_its_rate(optimizer: Optimizer) -> bool:
    """Whether steps are proportional to the learning rate, as a third step on a stand-in shows.

    False for an optimizer that adapts the length of its steps, or that needs more than gradients for a step.
    """
    group = optimizer.param_groups[0]
    like = group["params"][0].detach()
    start = torch.linspace(-1.0, 1.0, like.numel(), dtype=like.dtype, device=like.device).view_as(like)
    moved = []
    try:
        for factor in (1.0, 0.5):
            stand_in = start.clone().requires_grad_()
            twin = _twin(optimizer, dict(group), stand_in)
            for last in (False, False, True):
                stand_in.grad = stand_in.detach().cos()
                before = stand_in.detach().clone()
                twin.param_groups[0]["lr"] = 0.01 * (factor if last else 1.0)
                type(optimizer).step(twin)
            moved.append((stand_in.detach() - before) / factor)
    except Exception:  # a user's optimizer may fail in any way
        return False
    return torch.allclose(*moved, rtol=1e-2, atol=1e-6)
