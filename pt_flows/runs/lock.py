"""One writer for each run folder: a lock of the operating system, which a killed process cannot leave behind.

The lock is on the file `.lock`, and `.holder.json` beside it only names the holder. The lock ends with its process,
also on a file system that several hosts share, so nobody has to remove a file by hand.
"""

import errno
import json
import os
import socket
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pt_flows.errors import UserError
from pt_flows.files import replacing

SECONDS_FOR_THE_DEAD = 100.0
"""How long the lock of a process that is not seen here may last: a file server drops that of a lost host by then."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""What file systems without locks answer."""


class RunLock:
    """The right to write into a run folder. The first process of a run holds it for all of its processes."""

    def __init__(self) -> None:
        self._lock: FileLock | None = None

    def acquire(self, folder: Path) -> None:
        """Take the lock, and wait for it where its holder seems to be dead.

        Raises:
            UserError: Another process trains in this folder; names it.
        """
        lock = FileLock(folder / ".lock", fallback_to_soft=False, thread_local=False)
        holder_file = folder / ".holder.json"
        try:
            self._wait_for(lock, folder, _holder(holder_file))
        except Timeout as error:
            raise _refusal(folder, _holder(holder_file)) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(
                f"note: the file system of {folder} has no locks ({error.strerror}): start no second process in it",
                flush=True,
            )
            return
        self._lock = lock
        here = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        with replacing(holder_file) as partial:
            partial.write_text(json.dumps(here) + "\n")

    @staticmethod
    def _wait_for(lock: FileLock, folder: Path, holder: dict[str, Any]) -> None:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if _is_alive_here(holder):
                raise
            print(
                f"note: {folder} is held by {_name(holder)}. Waiting up to {SECONDS_FOR_THE_DEAD:.0f} seconds for it",
                flush=True,
            )
            lock.acquire(timeout=SECONDS_FOR_THE_DEAD, poll_interval=0.2)

    @property
    def is_held(self) -> bool:
        """Whether this process, or the one that it was forked from, has acquired a lock."""
        return self._lock is not None

    def release(self) -> None:
        """Let others write."""
        if self._lock is not None:
            Path(self._lock.lock_file).with_name(".holder.json").unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process holds nothing."""
        return {"_lock": None}


def _refusal(folder: Path, holder: dict[str, Any]) -> UserError:
    return UserError(
        f"run folder {folder}: expected no other process in it, got {_name(holder)}. Wait until that run ends, or stop "
        "it, then repeat the command"
    )


def _holder(file: Path) -> dict[str, Any]:
    """Content of `.holder.json`; empty where it cannot be read."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return "a process that left no name"
    return f"process {holder.get('pid')} on {holder.get('host')}, which started at {holder.get('since')}"


def _is_alive_here(holder: dict[str, Any]) -> bool:
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, and belongs to somebody else
        return True
    return True
