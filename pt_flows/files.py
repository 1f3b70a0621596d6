"""Files that are whole or not there."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to, which takes its place when the block ends.

    A kill, an error or a full disk leaves what was there before.

    Args:
        target: The file to write or to replace; its folder is made.

    Raises:
        OSError: The file could not be written; names the target.
    """
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        partial.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Remove files that killed processes left half-written in `replacing`; those of other programs stay.

    Args:
        folder: Holds the files; no other process may be writing there.
    """
    for path in folder.glob("*.partial"):
        if re.fullmatch(r".+\.\d+\.partial", path.name):
            path.unlink(missing_ok=True)
