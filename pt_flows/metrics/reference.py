"""Statistics that are computed once from real images and kept on disk."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from pt_flows.files import cache_folder, replacing
from pt_flows.training.distributed import of_every_rank, world


def content_hash(images: Tensor) -> str:
    """Sixteen hexadecimal digits that change with any pixel or the shape."""
    digest = hashlib.blake2b(repr(tuple(images.shape)).encode(), digest_size=8)
    digest.update(images.contiguous().numpy().data)
    return digest.hexdigest()


def cached(name: str, fields: tuple[str, ...], measure: Callable[[], tuple[Tensor, ...]]) -> list[Tensor]:
    """Read tensors from the cache, or measure them and write them there.

    Several processes read them if all find the file. Otherwise all measure together and the first one writes.

    Args:
        name: Name of the file without its suffix; it must identify everything that the tensors depend on.
        fields: Names of the tensors.
        measure: Function that computes them, the same ones on every process.
    """
    path = cache_folder() / f"{name}.pt"
    found: list[Tensor] | None = None
    if path.is_file():
        try:
            saved = torch.load(path, weights_only=True)
            found = [saved[field] for field in fields]
        except Exception as error:  # torch raises many kinds on damaged files
            tqdm.write(f"note: the cached statistics {path} cannot be read ({error}) and are measured again")
    if all(of_every_rank(found is not None)) and found is not None:
        return found
    found = [tensor.cpu() for tensor in measure()]
    if world()[0] == 0:
        with replacing(path) as partial:
            torch.save(dict(zip(fields, found, strict=True)), partial)
    return found
