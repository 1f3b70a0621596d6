"""A stack of gradient layers: frozen copies of one critic, each of which moves points up its values."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pt_flows.errors import UserError
from pt_flows.functional.potentials import euler_target, velocity
from pt_flows.training.flat import FlatNetwork

Image = Callable[[Tensor], Tensor]
"""Maps points to the samples that the critic takes: the identity, or a generator if points are latents."""


class Stack(nn.Module):
    """Layers p + η_k ∇(f_k ∘ image)(p), with the critic's weights at the time when a layer was added.

    A layer is one row of `snapshots` and one step size. The rows are a buffer, which grows with the stack and takes the
    checkpoint's number of rows when a state is loaded. The critic's network evaluates them, so its hooks are called;
    the caller puts it into evaluation mode. Its own weights are in their places again afterwards.

    Args:
        network: The critic. Its trainable parameters and floating-point buffers are copied for every layer.

    Attributes:
        step_sizes: η_k, in data units per slope of the critic.
        snapshots: The critics (layers, numbers of one critic).
    """

    snapshots: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.flat = FlatNetwork(network)
        self.step_sizes: list[float] = []
        buffers = self.flat.buffers()
        self.sizes = {name: value.numel() for name, value in buffers.items() if value.is_floating_point()}
        self.register_buffer("snapshots", torch.zeros(0, self.flat.num + sum(self.sizes.values())))
        self.register_load_state_dict_pre_hook(_grow)

    def __len__(self) -> int:
        """The number of layers."""
        return len(self.step_sizes)

    def append(self, step_size: float) -> None:
        """Add a layer with a copy of the critic's current weights."""
        buffers = self.flat.buffers()
        row = torch.cat([self.flat.vector(), *(buffers[name].reshape(-1) for name in self.sizes)])
        self.snapshots = torch.cat([self.snapshots, row.to(self.snapshots)[None]])
        self.step_sizes.append(step_size)

    def clear(self) -> None:
        """Remove all layers."""
        self.snapshots, self.step_sizes = self.snapshots[:0].clone(), []

    def value(self, k: int, x: Tensor) -> Tensor:
        """Values f_k(x) (B,) of the critic of layer k at samples (B, *event)."""
        theta, *rest = self.snapshots[k].split([self.flat.num, *self.sizes.values()])
        buffers = self.flat.buffers()
        buffers |= {name: part.view_as(buffers[name]) for name, part in zip(self.sizes, rest, strict=True)}
        return self.flat(self.flat.pieces(theta), buffers, x)

    def forward(self, points: Tensor, image: Image = lambda x: x, first: int = 0) -> Tensor:
        """Move points through the layers.

        It works under `no_grad` and in `inference_mode`, and no gradient reaches the critic or the parameters of
        `image`.

        Args:
            points: Samples (B, *event), or what `image` maps to samples.
            image: The map from points to samples, a fixed function of each point alone.
            first: The first of the layers to apply.

        Returns:
            The moved points, detached.
        """
        with torch.inference_mode(False):
            points = points.detach().clone()
            for k in range(first, len(self)):
                v = velocity(lambda p, k=k: self.value(k, image(p)), points)
                points = euler_target(points, v, self.step_sizes[k]).to(points.dtype)
        return points

    def get_extra_state(self) -> dict[str, Any]:
        """The step sizes, one for each layer."""
        return {"step_sizes": list(self.step_sizes)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the step sizes."""
        self.step_sizes = [float(eta) for eta in state["step_sizes"]]


def _grow(stack: Stack, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Make room for the layers of a checkpoint, and reject one that lacks some."""
    wanted = len(state.get(f"{prefix}_extra_state", {}).get("step_sizes", []))
    got = len(state.get(f"{prefix}snapshots", ()))
    if got != wanted:
        raise UserError(
            f"{prefix}snapshots: expected {wanted} critics, one for each gradient layer of the checkpoint, got {got}. "
            "The file is incomplete; load another checkpoint of the run"
        )
    stack.snapshots = stack.snapshots.new_zeros(wanted, stack.snapshots.shape[1])
