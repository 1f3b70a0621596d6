"""Work that processes share: each piece is claimed by a lock in a common folder."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from filelock import FileLock, Timeout

from pt_flows.studies.pool import Job

T = TypeVar("T")
State = Literal["open", "elsewhere", "done"]
"""A piece of work: to be done, done by an unclaimed process right now, or done."""


def shared_jobs(
    pieces: Sequence[T],
    lock: Callable[[T], Path],
    state: Callable[[T], State],
    job: Callable[[T, FileLock], Job],
) -> Iterator[Job | None]:
    """Yield a job for every piece of work that no other process has claimed; None while all others are claimed.

    Args:
        pieces: The pieces.
        lock: Returns the file of a piece's lock.
        state: Returns the state of a piece that this process has claimed.
        job: Returns the job of an open piece. It releases the claim at its end.
    """
    left = list(pieces)
    while left:
        for piece in left:
            if (claim := claimed(lock(piece))) is None:
                continue
            if (known := state(piece)) != "open":
                claim.release()
            if known == "elsewhere":
                continue
            left.remove(piece)
            if known == "open":
                yield job(piece, claim)
            break
        else:
            yield None


def claimed(file: Path) -> FileLock | None:
    """Claim a piece of work by its lock; None if another process has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    claim = FileLock(file, thread_local=False)
    try:
        claim.acquire(timeout=0)
    except Timeout:
        return None
    return claim
