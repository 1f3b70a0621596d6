"""One writer for each run folder, by a lock of the operating system.

The lock is on the file `.lock`, and `.holder.json` only names the holder. The lock ends with its process, also on file
systems that several hosts share, so that nobody has to remove a file by hand.
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
"""Time to wait for a lock if its holder does not run on this host. A file server drops locks of lost hosts by then."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""Errors of file systems without locks."""


class RunLock:
    """The right to write to a run folder. The first process of a run holds it for all of its processes."""

    def __init__(self) -> None:
        self._lock: FileLock | None = None

    def acquire(self, folder: Path) -> None:
        """Acquire the lock. If its holder seems to be dead, wait for it.

        Raises:
            UserError: Another process trains in this folder.
        """
        lock = FileLock(folder / ".lock", fallback_to_soft=False, thread_local=False)
        holder_file = folder / ".holder.json"
        try:
            self._wait_for(lock, folder, _holder(holder_file))
        except Timeout as error:
            got = _name(_holder(holder_file))
            raise UserError(f"{folder}: expected no other process in it, got {got}. Stop it, or wait for it") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            note = f"note: the file system of {folder} has no locks ({error.strerror}). Start no second process in it"
            print(note, flush=True)
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
            until = f"Waiting up to {SECONDS_FOR_THE_DEAD:.0f} seconds for it"
            print(f"note: {folder} is held by {_name(holder)}. {until}", flush=True)
            lock.acquire(timeout=SECONDS_FOR_THE_DEAD, poll_interval=0.2)

    @property
    def is_held(self) -> bool:
        """Whether this process, or its parent before a fork, has acquired the lock."""
        return self._lock is not None

    def release(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            Path(self._lock.lock_file).with_name(".holder.json").unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the lock: a copy in another process does not hold it."""
        return {"_lock": None}


def is_locked(folder: Path) -> bool:
    """Whether a process trains in a run folder."""
    if not (folder / ".lock").is_file():
        return False
    lock = FileLock(folder / ".lock", fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # without locks nobody can tell
        return False
    lock.release()
    return False


def _holder(file: Path) -> dict[str, Any]:
    """Return the content of `.holder.json`; empty if it cannot be read."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return "an unknown process"
    return f"process {holder.get('pid')} on {holder.get('host')}, which started at {holder.get('since')}"


def _is_alive_here(holder: dict[str, Any]) -> bool:
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is alive, and belongs to another user
        return True
    return True
