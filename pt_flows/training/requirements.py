"""Requirements of the base classes on methods, networks and optimizers, checked as early as possible."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pt_flows.contracts import CriticNet, EncoderNet, EnergyNet, GeneratorNet, PredictorNet, Shape
from pt_flows.errors import UserError

SPECTRAL = {"_SpectralNorm", "SpectralNorm"}
"""Names of torch's classes that divide a weight by its largest singular value."""


def check_network(
    key: str, net: Any, kind: type[GeneratorNet | CriticNet | EnergyNet | EncoderNet | PredictorNet]
) -> None:
    """Check that a network declares its inputs and outputs.

    Raises:
        UserError: It is no network, or lacks attributes; the error names them.
    """
    if isinstance(net, type) or not isinstance(net, nn.Module):
        what = f"the class {net.__name__}" if isinstance(net, type) else f"an object of type {type(net).__name__}"
        raise UserError(f"{key}: expected a network, a {kind.__name__}, got {what}")
    missing = [name for name in kind.__annotations__ if not hasattr(net, name)]
    if missing:
        got = f"a {type(net).__name__} without its {', '.join(missing)}"
        raise UserError(f"{key}: expected a pt_flows.{kind.__name__}, got {got}. Set them in __init__")


def check_no_batch_norm(key: str, network: nn.Module) -> None:
    """Check that a network treats every sample alone.

    Raises:
        UserError: It has batch norm; the error names the layer.
    """
    for path, layer in network.named_modules():
        if isinstance(layer, _BatchNorm):
            raise UserError(f"{key}: expected no batch norm, got one at {path}. Use another normalisation")


def check_spectral_norm(key: str, network: nn.Module) -> None:
    """Check that every weight of a network has spectral norm, of either form that torch has.

    Raises:
        UserError: One has not; the error names the layer.
    """
    for path, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding):
            parts = (*layer.modules(), *layer._forward_pre_hooks.values())
            if not {type(part).__name__ for part in parts} & SPECTRAL:
                advice = "Set spectral_norm to true"
                raise UserError(f"{key}: expected spectral norm on all layers, got none at {path}. {advice}")


def check_agreement(
    key: str, net: Any, partner: str, event_shape: Shape, num_classes: int, optional: bool = False
) -> None:
    """Check that a network takes the samples and labels of its partner.

    Args:
        key: Configuration key of the network.
        net: The network.
        partner: Name of the data or of the player that it works with.
        event_shape: Shape of the partner's samples.
        num_classes: Number of classes of the partner.
        optional: Whether a network without labels agrees, too.

    Raises:
        UserError: The shape of samples or the number of classes differs.
    """
    wanted, got = tuple(event_shape), tuple(getattr(net, "event_shape", event_shape))
    if got != wanted:
        advice = "Give both the same image_size, num_channels or event_shape"
        raise UserError(f"{key}: expected samples of shape {wanted}, as {partner} has, got {got}. {advice}")
    classes = getattr(net, "num_classes", 0)
    if classes != num_classes and (classes or not optional):
        advice = "Set num_classes of all networks to that of the data, or to 0"
        raise UserError(f"{key}: expected num_classes {num_classes}, as {partner} has, got {classes}. {advice}")


def check_factory(key: str, value: Any) -> None:
    """Check that a player can make its optimizer from its parameters.

    Raises:
        UserError: The value is an optimizer already, or no function.
    """
    if isinstance(value, torch.optim.Optimizer) or not isinstance(value, Callable):
        wanted = "expected a function from parameters to an optimizer"
        raise UserError(f"{key}: {wanted}, got {type(value).__name__}. Write partial(torch.optim.Adam, lr=1e-3)")


def check_terms(what: str, terms: Any, detached: bool = True) -> None:
    """Check that terms are scalar tensors by name.

    Args:
        what: Name of the function that returned them.
        terms: The returned value.
        detached: Whether they must have no graph.

    Raises:
        UserError: One is something else; the error names it.
    """
    if not isinstance(terms, dict):
        wanted = "expected a dict of scalar tensors, such as {'loss_G': loss.detach()}"
        raise UserError(f"{what}: {wanted}, got {type(terms).__name__}. Return a dict")
    for name, value in terms.items():
        if not isinstance(value, Tensor):  # a number would have let the iteration wait for the device
            got = type(value).__name__
            raise UserError(f"{what}: {name}: expected a tensor, got {got}. Return the tensor itself")
        if value.dim():
            raise UserError(f"{what}: {name}: expected a scalar, got shape {tuple(value.shape)}. Return its mean")
        if detached and value.requires_grad:  # graphs of many iterations would fill the memory
            raise UserError(f"{what}: {name}: expected no graph, got one. Return {name}.detach()")


def check_loss(what: str, loss: Any) -> None:
    """Check that a loss can be differentiated.

    Raises:
        UserError: It cannot.
    """
    if not isinstance(loss, Tensor):
        raise UserError(f"{what}: expected a loss, a scalar tensor, got {type(loss).__name__}")
    if loss.dim():
        raise UserError(f"{what}: expected a scalar loss, got shape {tuple(loss.shape)}. Take its mean")
    if not loss.requires_grad:
        raise UserError(f"{what}: expected a loss that depends on parameters, got none. Compute it without no_grad")


def check_samples(what: str, x: Any, num: int, event_shape: Shape) -> None:
    """Check that samples have the declared shape.

    Raises:
        UserError: They have another shape.
    """
    got, wanted = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__, (num, *event_shape)
    if got != wanted:
        raise UserError(
            f"{what}: expected {num} samples, a tensor of shape {wanted}, got {got}. Correct it or the event_shape"
        )


def check_block(batch: Any, num_minibatches: int) -> None:
    """Check that a batch is a block of iterations: x, y, and maybe other tensors.

    Raises:
        UserError: It is not.
    """
    shapes = [tuple(part.shape) for part in batch if isinstance(part, Tensor)]
    y = shapes[1][:3] if len(shapes) > 1 else ()
    if len(y) != 3 or y[1] != num_minibatches or any(shape[:3] != y for shape in shapes):
        wanted = f"x (iterations, {num_minibatches}, B, *event) and y (iterations, {num_minibatches}, B)"
        got = " and ".join(map(str, shapes[:2])) or type(batch).__name__
        raise UserError(f"data: expected blocks {wanted}, got {got}. Derive the data from FlowData")
