"""A network as a function of one flat vector of parameters, so that an integrator can move a player like a point."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _unflatten_dense_tensors

from pt_flows.errors import UserError
from pt_flows.training.places import buffer_places, parameter_places, put, tensor_at
from pt_flows.training.requirements import SPECTRAL

RANDOM_LAYERS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.RReLU,
)


class FlatNetwork:
    """Evaluates a network at other parameters than its own, which are in their places again afterwards.

    Args:
        network: The network. Its parameters and buffers are looked up now, their values whenever a method is called.

    Attributes:
        parameters: The trainable parameters.
        num: The number of their elements.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.places = [places for places in parameter_places(network) if tensor_at(places).requires_grad]
        names = [name for name, _ in network.named_buffers()]
        self.buffer_places = dict(zip(names, buffer_places(network), strict=True))
        self.num = sum(p.numel() for p in self.parameters)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, tied ones once."""
        return [tensor_at(places) for places in self.places]

    def __call__(self, pieces: Sequence[Tensor], buffers: dict[str, Tensor], *args: Any) -> Any:
        """The network at its arguments with other parameters, differentiable in them.

        Args:
            pieces: All trainable parameters, in the order of `parameters`.
            buffers: Buffers in place of the network's own; training mode writes to them.
            args: Arguments of the network's forward.
        """
        tensors = [*pieces, *(buffers[name] for name in self.buffer_places)]
        with put(tensors, [*self.places, *self.buffer_places.values()]):
            return self.network(*args)

    def vector(self) -> Tensor:
        """A copy of all trainable parameters (num,)."""
        return joined([p.detach() for p in self.parameters])

    def pieces(self, theta: Tensor) -> Sequence[Tensor]:
        """Views of a vector (num,) in the shapes of the parameters."""
        return _unflatten_dense_tensors(theta, self.parameters)

    def leaves(self, theta: Tensor) -> list[Tensor]:
        """The pieces of a vector (num,), to differentiate by: gradients of pieces are cheaper than one of the whole."""
        return [piece.requires_grad_() for piece in self.pieces(theta.detach())]

    def buffers(self) -> dict[str, Tensor]:
        """Copies of the buffers, such as the running statistics of batch norm, for one evaluation."""
        return {name: tensor_at(places).clone() for name, places in self.buffer_places.items()}

    @torch.no_grad()
    def commit(self, buffers: dict[str, Tensor], where: Tensor) -> None:
        """Adopt buffers that an evaluation has updated, if the scalar `where` is true."""
        for name, places in self.buffer_places.items():
            buffer = tensor_at(places)
            buffer.copy_(torch.where(where, buffers[name], buffer))


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors one after another as one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def check_steady_layers(name: str, network: nn.Module) -> None:
    """Check that a network is one function in all stages of an iteration.

    A random layer and the power iteration of spectral norm change it between stages. Activation checkpointing
    recomputes blocks with the network's own weights instead of those of a stage.

    Raises:
        UserError: A layer is random, or changes with every evaluation. The error names it.
    """
    for path, layer in network.named_modules():
        if getattr(layer, "activation_checkpointing", False):
            raise UserError(f"{name}: expected no activation_checkpointing, got true. Set it to false")
        kinds = {type(layer).__name__, *(type(hook).__name__ for hook in layer._forward_pre_hooks.values())}
        if layer.training and kinds & SPECTRAL:
            where = path.split(".parametrizations")[0]
            raise UserError(f"{name}: expected no spectral norm, got one at {where}. Set spectral_norm to false")
        if layer.training and isinstance(layer, RANDOM_LAYERS) and getattr(layer, "p", 1.0) > 0:
            kind = type(layer).__name__
            raise UserError(f"{name}: expected no random layer, got {kind} at {path}. Remove it or set its p to 0")
