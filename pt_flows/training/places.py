"""Places of the tensors of a network.

To look up tensors by name takes longer than to evaluate a small network with them. Places are looked up once, and stay
when a network moves to another device.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Places = list[tuple[dict[str, Any], str]]
"""The dictionaries of layers that hold a tensor, and its names in them. Tied tensors have several places."""


def parameter_places(network: nn.Module) -> list[Places]:
    """The places of every parameter, in the order of the network."""
    return _places([layer._parameters for layer in network.modules()])


def buffer_places(network: nn.Module) -> list[Places]:
    """The places of every buffer, in the order of the network."""
    return _places([layer._buffers for layer in network.modules()])


def _places(dictionaries: Sequence[dict[str, Any]]) -> list[Places]:
    found: dict[int, Places] = {}
    for held in dictionaries:
        for name, tensor in held.items():
            if tensor is not None:
                found.setdefault(id(tensor), []).append((held, name))
    return list(found.values())


def tensor_at(places: Places) -> Any:
    """The tensor at the first of its places."""
    held, name = places[0]
    return held[name]


@contextmanager
def put(tensors: Sequence[Tensor], places: Sequence[Places]) -> Iterator[None]:
    """Put other tensors into the places of tensors inside a `with` block, and restore these."""
    before = [(held, name, held[name]) for of_one in places for held, name in of_one]
    try:
        for tensor, of_one in zip(tensors, places, strict=True):
            for held, name in of_one:
                held[name] = tensor
        yield
    finally:
        for held, name, tensor in before:
            held[name] = tensor
