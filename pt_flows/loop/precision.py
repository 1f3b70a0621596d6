"""Mixed precision: bfloat16 inside networks, float32 at their ends."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

NARROW = 16
"""Features below which a layer is an end."""


class EndsInFloat32(L.Callback):
    """Keeps the ends of networks in float32 under `trainer.precision: bf16-mixed`.

    Autocast computes products and convolutions in bfloat16, which keeps eight bits of a number. Those are too few for
    data, samples and a critic's values, whose small differences are what is trained. Layers at the ends cost little.
    """

    def __init__(self) -> None:
        self.before: list[tuple[nn.Module, dict[str, Any]]] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose how layers at the ends are computed."""
        method: Any = pl_module
        if str(trainer.precision) != "bf16-mixed":
            return
        if method.float32_only:
            method.print(f"note: {type(method).__name__} trains in float32 in spite of trainer.precision bf16-mixed")
            return
        for layer in ends(method.networks.values()):
            self.before.append((layer, {name: own for name, own in vars(layer).items() if name == "forward"}))
            layer.forward = partial(in_float32, layer.forward)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the layers as they were."""
        while self.before:
            layer, own = self.before.pop()
            del layer.forward
            vars(layer).update(own)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the layers after an error, too, after which Lightning does not call `teardown`."""
        self.teardown(trainer, pl_module, "fit")


def ends(networks: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Yield the first and the last linear or convolutional layer of each network, and those with few features.

    A network without such layers is an end itself.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 64), nn.Linear(64, 64), nn.Linear(64, 32), nn.Linear(32, 100))
        >>> [layer.out_features for layer in ends([net])]
        [64, 100]
    """
    for network in networks:
        layers = [layer for layer in network.modules() if features(layer)]
        if not layers:
            yield network
        for i, layer in enumerate(layers):
            if i in (0, len(layers) - 1) or min(features(layer)) < NARROW:
                yield layer


def features(layer: nn.Module) -> tuple[int, ...]:
    """Return the numbers of input and output features of a linear or convolutional layer, and none of others."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
        return layer.in_channels, layer.out_channels
    return ()


def in_float32(forward: Callable[..., Tensor], x: Tensor, *others: Any) -> Tensor:
    """Evaluate a layer outside autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return forward(x.float(), *others)
