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
    """(rank, number of ranks) of this process; (0, 1) where no process group runs."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def launched(device: torch.device) -> Iterator[None]:
    """The process group of a program that `torchrun` started; nothing where it runs alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":  # objects are gathered by way of the current device
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def roll_call(address: str, port: int, rank: int, num_ranks: int, timeout: timedelta | None) -> TCPStore:
    """Wait until all processes of a run have come, which a process group would do without saying who is missing.

    Args:
        address: Of process 0.
        port: A free one there, which the process group may use afterwards.
        rank: Of this process.
        num_ranks: How many there are.
        timeout: How long to wait; half an hour if None.

    Returns:
        What they met at; to be kept until the process group is there.

    Raises:
        UserError: Names the processes that have not come in time.
    """
    timeout = timeout or timedelta(minutes=30)
    deadline = time.monotonic() + timeout.total_seconds()
    try:
        store = TCPStore(address, port, is_master=rank == 0, timeout=timeout, wait_for_workers=False, multi_tenant=True)
        store.set(f"process {rank}", "has come")
        if rank:
            store.wait(["all have come"], timeout + timedelta(seconds=30))
            return store
    except dist.DistError as error:
        raise UserError(
            f"process {rank} of {num_ranks}: process 0 at {address}, port {port}, was not there within {timeout} or "
            "missed others; see what it says, or whether its node can be reached"
        ) from error
    missing = list(range(1, num_ranks))
    while missing := [r for r in missing if not store.check([f"process {r}"])]:
        if time.monotonic() > deadline:
            raise UserError(
                f"{len(missing)} of {num_ranks} processes have not come within {timeout}: "
                f"{', '.join(map(str, missing[:20]))}; see what their nodes say, and whether num_nodes and devices of "
                "trainer fit the job"
            )
        time.sleep(0.1)
    store.set("all have come", "")
    return store


def mean_over_ranks(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The tensors averaged over all ranks, in one all-reduce; the tensors themselves where there is one rank.

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

    Gradients reach this rank's part only, times the number of ranks: averaged over ranks, as gradients are, that is the
    gradient of a loss on the joined tensor.

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
    """Which of `num` things this rank works on: shares in the order of ranks, so joined they are in order again."""
    rank, num_ranks = world()
    return range(rank * num // num_ranks, (rank + 1) * num // num_ranks)


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of this tensor over all ranks; itself on one process."""
    if world()[1] > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def gathered(values: Tensor) -> Tensor:
    """Rows (B_r, ...) of all ranks in their order; ranks may bring different numbers. Without gradients."""
    return torch.cat(gather_all_tensors(values)) if world()[1] > 1 else values


def of_every_rank(value: Any) -> list[Any]:
    """A value of every rank that can be pickled, in the order of ranks."""
    if world()[1] == 1:
        return [value]
    values: list[Any] = [None] * world()[1]
    dist.all_gather_object(values, value)
    return values
