"""Places of the tensors of a network.

To look up tensors by name takes longer than to evaluate a small network with them. Places are looked up once, and stay
when a network moves to another device.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Places = list[tuple[dict[str, Any], str]]
"""The dictionaries of layers that hold a tensor, and its names in them. Tied tensors have several places."""


def places_of(network: nn.Module) -> list[Places]:
    """The places of every parameter, then those of every buffer, in the order of the network.

    Example:
        >>> [place[0][1] for place in places_of(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)))]
        ['weight', 'bias', 'weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """
    found: dict[int, Places] = {}
    layers = list(network.modules())
    for held in (*(layer._parameters for layer in layers), *(layer._buffers for layer in layers)):
        for name, tensor in held.items():
            if tensor is not None:
                found.setdefault(id(tensor), []).append((held, name))
    return list(found.values())


def tensor_at(places: Places) -> Any:
    """The tensor at the first of its places."""
    held, name = places[0]
    return held[name]


@contextmanager
def put(tensors: Iterable[Tensor], places: Sequence[Places]) -> Iterator[None]:
    """Put other tensors into the places of tensors inside a `with` block, and restore these."""
    before = [tensor_at(of_one) for of_one in places]
    try:
        _fill(tensors, places)
        yield
    finally:
        _fill(before, places)


def _fill(tensors: Iterable[Tensor], places: Sequence[Places]) -> None:
    for tensor, of_one in zip(tensors, places, strict=True):
        for held, name in of_one:
            held[name] = tensor
