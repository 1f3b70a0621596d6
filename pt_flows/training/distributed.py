"""Averages over the processes of a run.

Gradients taken with `torch.autograd.grad` never reach the hooks of DistributedDataParallel, so a method averages them
by hand: one flat all-reduce per step, which is also several times faster than one per tensor.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torchmetrics.utilities.distributed import gather_all_tensors

from pt_flows.errors import UserError


def world() -> tuple[int, int]:
    """(rank, number of ranks) of this process; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def launched(device: torch.device) -> Iterator[None]:
    """Join the process group of a program that `torchrun` started; do nothing if it runs alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":  # objects are gathered through the current device
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def roll_call(address: str, port: int, rank: int, num_ranks: int, timeout: timedelta | None) -> TCPStore:
    """Wait until all processes of a run have started. A process group would wait too, but never name the missing ones.

    Args:
        address: Address of process 0.
        port: A free port there, which the process group may use afterwards.
        rank: Rank of this process.
        num_ranks: Number of processes.
        timeout: Longest wait; half an hour if None.

    Returns:
        The store that they met at. Keep it until the process group exists.

    Raises:
        UserError: Processes did not start in time; the error names them.
    """
    timeout = timeout or timedelta(minutes=30)
    deadline = time.monotonic() + timeout.total_seconds()
    try:
        store = TCPStore(address, port, is_master=rank == 0, timeout=timeout, wait_for_workers=False, multi_tenant=True)
        store.set(f"process {rank}", "has started")
        if rank:
            store.wait(["all have started"], timeout + timedelta(seconds=30))
            return store
    except dist.DistError as error:
        here = f"process {rank} of {num_ranks}: expected an answer of process 0 at {address}, port {port}"
        raise UserError(f"{here}, got none within {timeout}. Read its output, and check its node") from error
    missing = list(range(1, num_ranks))
    while missing := [r for r in missing if not store.check([f"process {r}"])]:
        if time.monotonic() > deadline:
            late = f"expected {num_ranks} processes within {timeout}, {len(missing)} have not started"
            advice = "Read their output, and check num_nodes and devices"
            raise UserError(f"trainer: {late}: {', '.join(map(str, missing[:20]))}. {advice}")
        time.sleep(0.1)
    store.set("all have started", "")
    return store


def mean_over_ranks(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The tensors averaged over all ranks, in one all-reduce; the tensors themselves if there is one rank.

    Args:
        tensors: Any shapes, one dtype and device, the same order on every rank.
    """
    _, num_ranks = world()
    if num_ranks == 1:
        return tensors
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    flat /= num_ranks
    pieces = flat.split([t.numel() for t in tensors])
    return [piece.view_as(t) for piece, t in zip(pieces, tensors, strict=True)]


def all_ranks(values: Tensor) -> Tensor:
    """This tensor of every rank, joined along the first axis; itself on one process.

    Gradients reach this rank's part only, times the number of ranks. Gradients are averaged over ranks, and that
    average is the gradient of a loss on the joined tensor.

    Args:
        values: (B, ...), of the same shape on all ranks.
    """
    rank, num_ranks = world()
    if num_ranks == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(num_ranks)]
    dist.all_gather(parts, values.detach().contiguous())
    parts[rank] = values + (num_ranks - 1) * (values - values.detach())
    return torch.cat(parts)


def share_of(num: int) -> range:
    """This rank's share of `num` things. Shares follow the order of ranks, so joined shares are in order."""
    rank, num_ranks = world()
    return range(rank * num // num_ranks, (rank + 1) * num // num_ranks)


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of this tensor over all ranks; itself on one process."""
    if world()[1] > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def gathered(values: Tensor) -> Tensor:
    """Rows (B_r, ...) of all ranks in their order, without gradients. Ranks may have different numbers of rows."""
    return torch.cat(gather_all_tensors(values)) if world()[1] > 1 else values


def of_every_rank(value: Any) -> list[Any]:
    """A value of every rank that can be pickled, in the order of ranks."""
    if world()[1] == 1:
        return [value]
    values: list[Any] = [None] * world()[1]
    dist.all_gather_object(values, value)
    return values
