"""What the base classes require of methods, networks and optimizers: a sentence for each, said before it does harm."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pt_flows.contracts import CriticNet, EnergyNet, GeneratorNet, Shape
from pt_flows.errors import UserError


def check_network(key: str, net: Any, kind: type[GeneratorNet | CriticNet | EnergyNet]) -> None:
    """A network says what it takes and gives.

    Raises:
        UserError: Names what is missing.
    """
    if isinstance(net, type) or not isinstance(net, nn.Module):
        what = f"the class {net.__name__}" if isinstance(net, type) else f"an object of type {type(net).__name__}"
        raise UserError(f"{key}: expected a network, a {kind.__name__}, got {what}")
    missing = [name for name in kind.__annotations__ if not hasattr(net, name)]
    if missing:
        raise UserError(
            f"{key}: {type(net).__name__} does not say its {', '.join(missing)}; derive it from "
            f"pt_flows.{kind.__name__} and set them in __init__"
        )


def check_factory(key: str, value: Any) -> None:
    """An optimizer is made by the module, from parameters.

    Raises:
        UserError: It is made already, or cannot be made.
    """
    if isinstance(value, torch.optim.Optimizer) or not isinstance(value, Callable):
        raise UserError(
            f"{key}: expected a function from parameters to an optimizer, got an object of type "
            f"{type(value).__name__}; give partial(torch.optim.Adam, lr=1e-3)"
        )


def check_terms(what: str, terms: Any, detached: bool = True) -> None:
    """Terms are scalar tensors by name.

    Args:
        what: Who returned them.
        terms: What was returned.
        detached: Whether they must have no graph.

    Raises:
        UserError: Names the first one that is something else.
    """
    if not isinstance(terms, dict):
        raise UserError(
            f"{what} must return a dict of scalar tensors, such as {{'loss_G': loss.detach()}}, got "
            f"{type(terms).__name__}"
        )
    for name, value in terms.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{what}: {name} must be a tensor, got {type(value).__name__}; return the tensor itself, so that no "
                "iteration waits for the device"
            )
        if value.dim():
            raise UserError(f"{what}: {name} must be a scalar, got shape {tuple(value.shape)}; return its mean")
        if detached and value.requires_grad:
            raise UserError(f"{what}: {name} still has its graph, which fills the memory; return {name}.detach()")


def check_loss(what: str, loss: Any) -> None:
    """A loss can be differentiated.

    Raises:
        UserError: Says why it cannot.
    """
    if not isinstance(loss, Tensor):
        raise UserError(f"{what}: a loss must be a scalar tensor, got {type(loss).__name__}")
    if loss.dim():
        raise UserError(f"{what}: a loss must be a scalar, got shape {tuple(loss.shape)}; take its mean")
    if not loss.requires_grad:
        raise UserError(
            f"{what}: the loss does not depend on any parameter; compute it without no_grad, and detach only what is "
            "returned for the log"
        )


def check_samples(what: str, x: Any, num: int, event_shape: Shape) -> None:
    """Samples have the shape that was declared.

    Raises:
        UserError: They have another.
    """
    got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
    if got != (num, *event_shape):
        raise UserError(
            f"{what} must give {num} samples as a tensor of shape {(num, *event_shape)}, got {got}; mend sample or the "
            "network behind it, or the event_shape that it declares"
        )


def check_block(batch: Any, num_minibatches: int) -> None:
    """Check that a batch is a block of iterations.

    Raises:
        UserError: It is not.
    """
    shapes = [tuple(part.shape) for part in batch if isinstance(part, Tensor)]
    if len(shapes) != 2 or len(shapes[1]) != 3 or shapes[0][:3] != shapes[1] or shapes[1][1] != num_minibatches:
        raise UserError(
            f"data: expected blocks with x of shape (iterations, {num_minibatches}, B, *event) and y of shape "
            f"(iterations, {num_minibatches}, B), got {' and '.join(map(str, shapes[:2])) or type(batch).__name__}. "
            "Derive the data from FlowData"
        )
